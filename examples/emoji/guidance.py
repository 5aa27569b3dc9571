"""Draws what guidance does, for the documentation.

    python -m examples.emoji.guidance [--bundle emoji] [--out FILE]

Down a column the seed stays: first without a prompt, then with it at rising guidance.
"""

import argparse
from pathlib import Path

import latentrt
from examples.sheet import small, table

OUT = Path(__file__).parents[2] / "docs" / "pictures" / "guidance.png"
STEPS, SEED = 20, 7  # of the first column; every other column has the seed after it
SCALES = (1, 3, 5, 9)

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
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    rows = {"no prompt": (("",) * len(PROMPTS), 1)} | {f"guidance {scale}": (PROMPTS, scale) for scale in SCALES}
    with latentrt.load(given.bundle) as pipe:
        pictures = {
            name: [
                pipe.generate(prompt, steps=STEPS, guidance=scale, seed=SEED + column).images[0]
                for column, prompt in enumerate(prompts)
            ]
            for name, (prompts, scale) in rows.items()
        }
    small(table(pictures, PROMPTS)).save(given.out, optimize=True)


if __name__ == "__main__":
    main()
