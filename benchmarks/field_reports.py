"""Reproduces faults that users reported, and prints today's results as a Markdown table.

    python -m benchmarks.field_reports [WORD ...]

Each row makes a small input of its own and passes it to the commands or to Python as a user would, in a separate
process, folder and home folder. The last column is ok if the outcome is right, otherwise NOT, and then the exit status
is 1. WORD: selects the rows that contain one of these words.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import field_inputs as made
from benchmarks.field_place import Place
from benchmarks.field_rows import ROWS


def prepared(shared: Path) -> None:
    """Makes the checkpoints that the rows use, and exports two of them."""
    made.checkpoints(shared)
    for name in ("sd1", "sdxl"):
        done = Place(shared, shared).run("export", f"{name}-folder", f"{name}-bundle")
        assert done.status == 0, done.err


def main() -> None:
    """Prints the rows; the exit status is 1 if one has a wrong outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    words = parser.parse_args().words
    failed = 0
    print("| report | result today | as expected |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "shared").mkdir()
        prepared(root / "shared")
        for number, (what, row) in enumerate(ROWS.items()):
            if words and not any(word in what for word in words):
                continue
            (root / f"{number}").mkdir()
            now, right = row(Place(root / f"{number}", root / "shared"))
            failed += not right
            print(
                f"| {what} | {now.replace(name, '.').replace('|', chr(92) + '|')} | {'ok' if right else 'NOT'} |",
                flush=True,
            )
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
