"""Marks in pictures: XMP and Content Credentials, whether they verify, what tampering shows, bytes and time.

    python -m benchmarks.serve_provenance [--pictures 200]

Pictures of 512x512, a third in each format, smooth with noise, as they come from a model. Needs the extra `c2pa`.
"""

from __future__ import annotations

import argparse
import io
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import c2pa
import numpy as np
from PIL import Image

from benchmarks.certificates import write_chain
from benchmarks.machine import machine, one_line
from latentrt.images import xmp
from latentrt.images.credentials import TYPES, Signer
from latentrt.pipeline.metadata import bytes_with_text

SIDE, STEP = 512, 4
MARK = xmp.packet("trainedAlgorithmicMedia", "latentrt")
TEXT = {"parameters": "a red apple\nSteps: 20, Seed: 7", "latentrt": '{"prompt": "a red apple"}', xmp.KEY: MARK}


def pictures(count: int) -> Iterator[tuple[str, bytes, float]]:
    """Kinds and files of pictures, and the seconds that encoding took."""
    rng, kinds = np.random.default_rng(0), list(TYPES)
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 256, (SIDE // 32, SIDE // 32, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.int16)
        pixels = np.clip(smooth + rng.integers(-STEP, STEP + 1, smooth.shape), 0, 255).astype(np.uint8)
        kind, start = kinds[number % len(kinds)], time.perf_counter()
        file = bytes_with_text(Image.fromarray(pixels), kind, TEXT)
        yield kind, file, time.perf_counter() - start


def state_of(kind: str, file: bytes) -> str:
    """What the reader says of a file: a state, or that it cannot be read."""
    try:
        with c2pa.Reader(TYPES[kind], io.BytesIO(file)) as reader:
            return str(reader.get_validation_state())
    except c2pa.C2paError:
        return "unreadable"


def marked(file: bytes) -> bool:
    """Whether Pillow finds the mark in XMP, and in it IPTC's word."""
    with Image.open(io.BytesIO(file)) as image:
        image.load()
        packet = image.info.get("xmp") or image.info.get(xmp.KEY) or ""
    text = packet.decode() if isinstance(packet, bytes) else packet
    return xmp.source_in(text) == f"{xmp.LIST}trainedAlgorithmicMedia"


def tampered(file: bytes, signed: bytes, rng: random.Random) -> bytes:
    """The signed file with one bit flipped, anywhere but in the credentials.

    Their padding is covered by no hash: a bit in it changes neither the picture nor what is said of it.
    """
    head = 12  # of a WebP, with its length
    differing = (place for place in range(head, len(file)) if file[place] != signed[place])
    start = next(differing, len(file))
    place = rng.randrange(len(file))
    changed = bytearray(signed)
    changed[place if place < start else place + len(signed) - len(file)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def main() -> None:
    """Prints a row for each format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200)
    count = parser.parse_args().pictures
    rng = random.Random(0)
    rows: dict[str, list[tuple[bool, bool, bool, int, float, float]]] = {kind: [] for kind in TYPES}
    with tempfile.TemporaryDirectory() as folder:
        signer = Signer(*write_chain(Path(folder)))
    for kind, file, encoding in pictures(count):
        start = time.perf_counter()
        signed = signer.sign(file)
        took = time.perf_counter() - start
        valid, found = state_of(kind, signed) == "Valid", marked(signed)
        shown = state_of(kind, tampered(file, signed, rng)) != "Valid"
        rows[kind].append((found, valid, shown, len(signed) - len(file), took, encoding))
    print(one_line(machine()))
    columns = ("pictures", "XMP found", "valid", "flipped bit found", "bytes added, most", "ms added, p50, p95")
    print(f"| format | {' | '.join(columns)} | ms of encoding |\n|{'---|' * (len(columns) + 2)}")
    for kind, found_rows in rows.items():
        marks, valids, shows, sizes, seconds, encodings = np.array(found_rows).T
        p50, p95 = np.percentile(seconds, (50, 95)) * 1000
        print(
            f"| {kind} | {len(found_rows)} | {marks.sum():.0f} | {valids.sum():.0f} | {shows.sum():.0f} | "
            f"{sizes.max():.0f} | {p50:.1f}, {p95:.1f} | {np.median(encodings) * 1000:.1f} |"
        )


if __name__ == "__main__":
    main()
