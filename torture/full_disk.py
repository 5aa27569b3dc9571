"""A disk that is full at any point of a write: one clear error, nothing half-written, the old file as it was.

Sizes of a small file system in memory where this user may mount one, a limit on the size of files, and output that
goes to a full device.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latentrt.bundle.folder import open_bundle
from torture.tally import Given, Tally

MB = 1 << 20
DISK = 7  # the exit status of an output that cannot be written
COMMAND = [sys.executable, "-m", "latentrt"]
# Commands that write much, or little, to a folder: the name of what they make, and their words.
WRITES: dict[str, tuple[str, list[str]]] = {
    "a bundle": ("out", ["step-cache", "emoji", "{out}", "--boundary", "1"]),
    "a picture": ("out.png", ["generate", "a red apple", "--steps", "1", "--size", "256x256", "--out", "{out}"]),
    "sound": ("out.wav", ["audio", "{picture}", "--bands", "256", "--out", "{out}"]),
}
SAYS: tuple[list[str], ...] = (
    ["--help"],
    ["inspect", "emoji", "--json"],
    ["inspect", "emoji"],
    ["doctor"],
    ["verify", "emoji"],
    ["generate", "--help"],
    ["estimate", "emoji"],
    ["bench", "--help"],
)


def run(asked: Given) -> Tally:
    """The count of sizes for each command and both kinds of limit, then each command with a full device for output."""
    tally = Tally()
    picture = asked.scratch / "spectrogram.png"
    made = [*COMMAND, "generate", "a red apple", "--steps", "1", "--size", "256x256", "--out", str(picture)]
    subprocess.run(made, check=True, capture_output=True)
    mounts = can_mount(asked.scratch)
    for kind, (name, words) in WRITES.items():
        for number in range(asked.count):
            size = (number + 1) * (40 * MB if kind == "a bundle" else MB // 2) // asked.count
            if mounts:
                with small_disk(asked.scratch / "disk", size + 64 * 1024) as folder:
                    attempt(tally, f"{kind} on {size} bytes", folder / name, words, picture)
            (folder := asked.scratch / "limited").mkdir(exist_ok=True)
            attempt(tally, f"{kind} with files up to {size} bytes", folder / name, words, picture, largest=size)
    for words in SAYS:
        said(tally, words)
    tally.note = "" if mounts else "no small file system could be mounted, so files were limited instead"
    return tally


def attempt(
    tally: Tally, what: str, out: Path, words: list[str], picture: Path, largest: int = resource.RLIM_INFINITY
) -> None:
    """Runs one command that may find no room. It must end with its status and leave all of its output, or none."""
    old = b"old"
    if out.suffix:
        out.write_bytes(old)
    filled = [word.format(out=out, picture=picture) for word in words]
    done = subprocess.run(
        [*COMMAND, *filled],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest)),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    fault = fault_of(done, out, old)
    tally.add("written" if done.returncode == 0 else "refused", fault=f"{what}: {fault}" if fault else "")
    remove(out)


def fault_of(done: subprocess.CompletedProcess[str], out: Path, old: bytes) -> str:
    """What is wrong with the end of a command; "" if nothing is."""
    left = [path.name for path in out.parent.iterdir() if path != out]
    if left:
        return f"left {', '.join(left)}"
    if done.returncode == 0:
        if out.is_dir():
            open_bundle(out)
        return "" if out.exists() and (out.is_dir() or out.read_bytes() != old) else "ended well and wrote nothing"
    *_, last = done.stderr.splitlines() or [""]
    if done.returncode != DISK or "Traceback" in done.stderr or not last.startswith("error: "):
        return f"status {done.returncode}: {done.stderr[-200:]}"
    if out.suffix and (not out.exists() or out.read_bytes() != old):
        return "the old file is gone"
    return "a part of a bundle" if not out.suffix and out.exists() else ""


def remove(out: Path) -> None:
    """Removes a command's output."""
    subprocess.run(["rm", "-rf", str(out)], check=True)


def said(tally: Tally, words: list[str]) -> None:
    """Runs a command whose output goes to a full device."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*COMMAND, *words], stdout=full, stderr=subprocess.PIPE, text=True)
    clean = done.returncode == DISK and "Traceback" not in done.stderr
    told = f"{' '.join(words)}: status {done.returncode}: {done.stderr[-200:]}"
    tally.add("refused" if done.returncode else "written", fault="" if clean else told)


def can_mount(scratch: Path) -> bool:
    """Whether this user may mount a file system."""
    try:
        with small_disk(scratch / "disk", MB):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A folder with so much room, in memory."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size // 4096 * 4096}", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
