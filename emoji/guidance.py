"""Draws what guidance does, for the documentation.

    python -m emoji.guidance [--bundle emoji] [--out FILE]

Down a column the seed stays: first without a prompt, then with it at rising guidance, at last with the highest in the
middle of the run alone.
"""

import argparse
from pathlib import Path
from typing import Any

from PIL import Image

import latentrt
from examples.sheet import small, table

OUT = Path("guidance.png")
STEPS, SEED = 20, 7  # of the first column; every other column has the seed after it
SCALES = (1, 3, 5, 9)
INTERVAL = (0.3, 5.0)

PROMPTS = (
    "a red apple",
    "a rocket on a navy background",
    "a cat face",
    "a hamburger on a yellow background",
    "an octopus",
    "a sailboat on a pink background",
)


def main() -> None:
    """Draw the table: one column a prompt and a seed, one row a guidance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="emoji", help="a bundle's folder or a built-in model")
    parser.add_argument("--out", type=Path, default=OUT, help=f"[default: {OUT} in this folder]")
    given = parser.parse_args()
    guided = {f"guidance {scale}": {"guidance": scale} for scale in SCALES}
    within = {"guidance": SCALES[-1], "guidance_interval": INTERVAL}
    rows = guided | {"guidance {} from sigma {} to {}".format(SCALES[-1], *INTERVAL): within}
    with latentrt.load(given.bundle) as pipe:
        pictures = {"no prompt": [draw(pipe, "", column, guidance=1) for column in range(len(PROMPTS))]}
        for name, options in rows.items():
            pictures[name] = [draw(pipe, prompt, column, **options) for column, prompt in enumerate(PROMPTS)]
    small(table(pictures, PROMPTS)).save(given.out, optimize=True)
    print(given.out)


def draw(pipe: latentrt.Pipeline, prompt: str, column: int, **options: Any) -> Image.Image:
    """Return the picture of one place in the table."""
    return pipe.generate(prompt, steps=STEPS, seed=SEED + column, **options).images[0]


if __name__ == "__main__":
    main()
