"""Writes the prompts that the built-in model is quantized and judged on, in the words that it was trained with.

    python -m emoji.prompts

64 captions to calibrate on and 100 to judge on, of different pictures, in `emoji/prompts/`, one a line, from
fixed seeds; one in eight names two pictures. `latentrt calibrate --prompts ... --evaluation ...` takes them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from emoji import index
from emoji.captions import caption, pair_caption
from emoji.index import Row

FOLDER = Path(__file__).parent / "prompts"
SEED, PAIRED = 1, 0.125
COUNTS = {"calibration": 64, "evaluation": 100}


def captions(rows: Sequence[Row], count: int, seed: int) -> Iterator[str]:
    """Yield `count` captions, each of another picture of `rows`, or of two."""
    rng, left = np.random.default_rng(seed), iter(rows)
    for _ in range(count):
        row = next(left)
        made = pair_caption(row, next(left), rng) if rng.random() < PAIRED else caption(row, rng)
        yield made.text


def main() -> None:
    """Write both files."""
    rows = index.load()
    order = np.random.default_rng(SEED).permutation(len(rows))
    FOLDER.mkdir(exist_ok=True)
    start = 0
    for number, (name, count) in enumerate(COUNTS.items()):
        some = [rows[place] for place in order[start : start + 2 * count]]
        start += 2 * count  # a caption takes at most two pictures
        lines = captions(some, count, SEED + number)
        (FOLDER / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
