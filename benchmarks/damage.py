"""Damages a bundle many times and counts how often loading finds it: python -m benchmarks.damage [BUNDLE].

Each time, one bit of a file is flipped or (in a quarter of the cases) the file is cut, by random numbers of a fixed
seed. The files take turns. After each change, the bundle is loaded as a program would load it, then restored.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import latentrt
from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import MANIFEST, open_bundle

CUTS = 0.25


@contextmanager
def damaged(path: Path, draw: random.Random) -> Iterator[str]:
    """Damages the file while the block runs, then restores it. Yields a description of the damage."""
    size = path.stat().st_size
    cut, place = draw.random() < CUTS, draw.randrange(size)
    with path.open("r+b") as file:
        file.seek(place)
        kept = file.read() if cut else file.read(1)
        bit = draw.randrange(8)
        file.seek(place)
        if cut:
            file.truncate()
        else:
            file.write(bytes([kept[0] ^ 1 << bit]))
        file.flush()
        yield f"{path.name} cut after {place} bytes" if cut else f"{path.name}: bit {bit} of byte {place}"
        file.seek(place)
        file.write(kept)


def outcome(folder: Path) -> str:
    """The result of loading the bundle: "found", "not found" or "tracebacks"."""
    try:
        latentrt.load(folder, engine="onnxruntime")
    except latentrt.BundleError:
        return "found"
    except Exception:
        traceback.print_exc()
        return "tracebacks"
    return "not found"


def main() -> None:
    """Prints the counts; the exit status is 1 if any damage was not found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", nargs="?", default="emoji")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    draw, counts = random.Random(asked.seed), Counter[str]()
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(shutil.copytree(folder_of(asked.bundle), Path(parent) / "bundle"))
        files = [MANIFEST, *open_bundle(folder).manifest.files]
        for file in itertools.islice(itertools.cycle(files), asked.count):
            with damaged(folder / file, draw) as what:
                found = outcome(folder)
            counts[found] += 1
            if found != "found":
                print(f"{found}: {what}")
        open_bundle(folder)  # all was put back
    print(", ".join(f"{counts[name]} {name}" for name in ("found", "not found", "tracebacks")))
    sys.exit(counts["found"] != asked.count)


if __name__ == "__main__":
    main()
