"""A sheet of enlarged pictures: the small one, bicubic interpolation, super-resolution, the large one.

    python -m emoji.ldm.enlarged BUNDLE docs/pictures/emoji-enlarged.png

Pictures of the training, on colours on which it did not show them. Prints the PSNR of each, in dB.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import latentrt
from emoji import index
from emoji.cutouts import PALETTE
from emoji.ldm.latents import colours_of
from emoji.ldm.pictures import LARGE, large, reduced
from emoji.words import COLOURS
from examples.sheet import table
from latentrt.images.colours import with_colours_of
from latentrt.images.pillow import to_images
from latentrt_calib.evaluate.metrics import psnr_db

LABELS = ("owl", "rocket", "red apple", "grinning face", "guitar", "sailboat")
SHOWN = 160  # pixels a side on the sheet
HEADS = ("64x64", "bicubic", "super-resolution", "with --keep-colours", "256x256")


def rows_of(pipeline: latentrt.Pipeline, steps: int) -> Iterator[tuple[str, list[Image.Image]]]:
    """Yield a name and five pictures of 256x256, as in HEADS, for each label."""
    labels = [row.label for row in index.load()]
    shown = colours_of(len(labels))
    for place, label in enumerate(LABELS):
        number = labels.index(label)
        colour = [one for one in range(len(PALETTE)) if one not in shown[number]][place]
        original = large(number, colour)
        small, whole = (to_images(one[None].numpy())[0] for one in (reduced(original), original))
        made = latentrt.upscale(pipeline, small, steps=steps, seed=0).image.convert("RGB")
        sides = (LARGE, LARGE)
        others = [small.resize(sides, way) for way in (Image.Resampling.NEAREST, Image.Resampling.BICUBIC)]
        yield f"{label} on {list(COLOURS)[colour]}", [*others, made, with_colours_of(made, small), whole]


def main() -> None:
    """Enlarge, print, and draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    rows: dict[str, list[Image.Image]] = {}
    with latentrt.load(given.bundle, engine="onnxruntime") as pipeline:
        for name, row in rows_of(pipeline, given.steps):
            *pixels, expected = map(np.asarray, row)
            found = [psnr_db(one, expected) for one in pixels[1:]]
            figures = [f"{head} {one:.1f} dB" for head, one in zip(HEADS[1:-1], found, strict=True)]
            print(f"{name}: {', '.join(figures)}", flush=True)
            rows[name] = [one.resize((SHOWN, SHOWN)) for one in row]
    table(rows, HEADS).save(given.out, optimize=True)


if __name__ == "__main__":
    main()
