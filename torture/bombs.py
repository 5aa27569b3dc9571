"""Pictures that are small files and large in memory, and metadata that unpacks to much more than it is."""

from __future__ import annotations

import io
import resource
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from latentrt.images.load import open_image
from latentrt.recipes.texts import read_texts
from torture.tally import Given, Tally

MOST_BYTES = 100_000_000  # Pillow unpacks up to 64 MiB of text before it refuses a picture
SIDES = (20_000, 30_000, 50_000, 65_000, 100_000, 200_000, 1_000_000, 2_000_000_000)


# A process per file, since what one takes would hide what the next one does.
CHILD = """
import resource, sys, time
from diffusers.utils import load_image
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
resource.setrlimit(resource.RLIMIT_AS, (4_000_000_000, resource.RLIM_INFINITY))
load_image(sys.argv[1])
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print("slow" if time.process_time() - start > 1 or grown > 100_000 else "read")
"""


def run(asked: Given) -> Tally:
    """Every file once; the count is of those that diffusers' reader is given too."""
    tally, theirs = Tally(), Counter[str]()
    for number, (name, content, read) in enumerate(files()):
        path = asked.scratch / name
        path.write_bytes(content)
        attempt(tally, name, path, read)
        if number < asked.count:
            theirs[by_diffusers(path)] += 1
    counts = ", ".join(f"{outcome} {count}" for outcome, count in theirs.most_common())
    tally.note = f"diffusers' load_image (slow: over a second or 100 MB): {counts}"
    return tally


def by_diffusers(path: Path) -> str:
    """What diffusers' reader makes of a file."""
    try:
        done = subprocess.run([sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return "hung"
    return done.stdout.strip() or "refused"


def attempt(tally: Tally, name: str, path: Path, read: Callable[[Path], object]) -> None:
    """Reads one file: it must be refused, or its metadata left out, at once and in little memory."""
    before = peak()
    taken = tally.attempt(name, lambda: read(path))
    grown = peak() - before
    if grown > MOST_BYTES:
        tally.faults.append(f"{name}: {'read' if taken else 'refused'} after {grown / 1e6:.0f} MB")


def peak() -> int:
    """The largest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def files() -> Iterator[tuple[str, bytes, Callable[[Path], object]]]:
    """Name, content and reader of every file."""
    for side in SIDES:
        yield f"square-{side}.png", png(side, side), picture
        yield f"wide-{side}.png", png(side, 20_000), picture
        yield f"grey16-{side}.png", png(side, side, depth=16), picture
        yield f"square-{side}.gif", gif(min(side, 65_535)), picture
    for megabytes in (10, 100, 400):
        text = zlib.compress(bytes(megabytes << 20), 9)
        yield f"ztxt-{megabytes}.png", png(8, 8, extra=chunk(b"zTXt", b"parameters\0\0" + text)), read_texts
        international = chunk(b"iTXt", b"parameters\0\1\0\0\0" + text)
        yield f"itxt-{megabytes}.png", png(8, 8, extra=international), read_texts
    many = b"".join(chunk(b"zTXt", b"k%d\0\0" % i + zlib.compress(bytes(900_000), 9)) for i in range(200))
    yield "many-texts.png", png(8, 8, extra=many), read_texts
    yield "profile.png", png(8, 8, extra=chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(200 << 20), 9))), picture


def picture(path: Path) -> object:
    """The picture, as a request reads it."""
    return open_image("init", path)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, depth: int = 1, extra: bytes = b"") -> bytes:
    """A PNG of zeros. Rows beyond the first few million bytes are left out: nobody should get that far."""
    row = 1 + (width * depth + 7) // 8
    packed = zlib.compressobj(9)
    data = io.BytesIO()
    for _ in range(min(height, max(1, 4_000_000 // row))):
        data.write(packed.compress(bytes(min(row, 4_000_000))))
    data.write(packed.flush())
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data.getvalue()) + chunk(b"IEND", b"")


def gif(side: int) -> bytes:
    """A GIF of one frame without its data."""
    size = struct.pack("<HH", side, side)
    return b"GIF89a" + size + b"\x80\0\0" + bytes(6) + b"," + bytes(4) + size + b"\0\x02\x02\x4c\x01\0;"
