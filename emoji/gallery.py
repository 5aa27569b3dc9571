"""Draws the picture at the top of the README: 24 prompts.

    python -m emoji.gallery [--bundle emoji] [--out FILE]

All have one seed; none was picked.
"""

import argparse
from pathlib import Path

from PIL import Image

import latentrt
from examples.sheet import sheet, small

OUT = Path("gallery.png")
COLUMNS, STEPS, SEED = 6, 20, 7

PROMPTS = (
    *("a red apple", "a rocket on a navy background", "a cat face", "a hamburger on a yellow background"),
    *("a smiling face with sunglasses", "a sailboat on a cyan background"),
    *("a penguin on a pink background", "a sunflower", "a car on a teal background", "a strawberry"),
    *("an octopus on a beige background", "a crown"),
    *("a cat beside a red apple", "a guitar on an orange background", "a robot", "a fox on a green background"),
    *("a pizza", "a unicorn on a purple background"),
    *("a castle", "an owl on a brown background", "a doughnut on a blue background", "a house"),
    *("a butterfly on a gray background", "a rocket next to a full moon on a black background"),
)


def main() -> None:
    """Draw the gallery."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="emoji", help="a bundle's folder or a built-in model")
    parser.add_argument("--out", type=Path, default=OUT, help=f"[default: {OUT} in this folder]")
    given = parser.parse_args()
    with latentrt.load(given.bundle) as pipe:
        draw(pipe).save(given.out, optimize=True)
    print(given.out)


def draw(pipe: latentrt.Pipeline) -> Image.Image:
    """Return the gallery of what a pipeline makes."""
    pictures = [pipe.generate(prompt, steps=STEPS, seed=SEED).images[0] for prompt in PROMPTS]
    return small(sheet(pictures, PROMPTS, COLUMNS))


if __name__ == "__main__":
    main()
