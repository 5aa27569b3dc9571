"""Runs what users' files and habits once broke, and prints what happens now as a table in Markdown.

    python -m benchmarks.field_reports [WORD ...]

Each row makes its own small input and gives it to the commands or to Python as a user would, in a process, a folder
and a home of its own. The last column is ok where the outcome is the right one, else NOT; then the exit status is 1.
WORD: only the rows that have one of these words in them.
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
    """Makes the checkpoints that rows use, and exports two of them."""
    made.checkpoints(shared)
    for name in ("sd1", "sdxl"):
        done = Place(shared, shared).run("export", f"{name}-folder", f"{name}-bundle")
        assert done.status == 0, done.err


def main() -> None:
    """Prints a row at a time, and ends with 1 where one of them is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    words = parser.parse_args().words
    failed = 0
    print("| report | result now | |\n|---|---|---|")
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
