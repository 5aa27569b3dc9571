"""A sheet of pictures of the class-conditional model: every fifth class, each from another seed.

python -m emoji.ldm.sheet BUNDLE docs/pictures/emoji-classes.png
"""

import argparse
from pathlib import Path

from PIL import Image

import latentrt
from examples.sheet import sheet

EVERY, COLUMNS, SIDE = 5, 8, 128  # SIDE: pixels, twice as many as the model draws


def classes_of(bundle: Path) -> Image.Image:
    """Return the sheet."""
    with latentrt.load(bundle, engine="onnxruntime") as pipeline:
        classes = pipeline.bundle.manifest.classes
        assert classes is not None
        chosen = [(number, name) for number, name in enumerate(classes.names) if number % EVERY == 0]
        chosen = chosen[: len(chosen) // COLUMNS * COLUMNS]
        drawn = [pipeline.generate(class_label=number, seed=number).images[0] for number, _ in chosen]
    large = [picture.resize((SIDE, SIDE), Image.Resampling.NEAREST) for picture in drawn]
    return sheet(large, [name.partition(",")[0] for _, name in chosen], COLUMNS)


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    classes_of(given.bundle).save(given.out, optimize=True)


if __name__ == "__main__":
    main()
