"""The pictures at two sizes on colours: 256x256, what super-resolution draws, and 64x64, what it is shown.

Both come from the same cut-out, so a pixel of the small one is the mean of 4x4 pixels of the large one.
"""

from functools import cache

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from emoji import compose, index
from emoji.cutouts import cached, drawn_colour, on_colour

LARGE, SMALL = 256, 64
FACTOR = LARGE // SMALL


@cache
def all_cutouts() -> NDArray[np.uint8]:
    """Return every large cut-out in the index's order: (pictures, 256, 256, 4) uint8, premultiplied."""
    return cached("cutouts256.npy", large_cutout)


def large_cutout(row: index.Row) -> compose.Array:
    """Return a picture's cut-out: (256, 256, 4) in [0, 1]."""
    with Image.open(row.path) as image:
        return compose.cutout(image, LARGE)


def large(number: int, colour: int) -> Tensor:
    """Return a picture on a colour: (3, 256, 256) in [-1, 1]."""
    return on_colour(all_cutouts()[number].astype(np.float32) / 255, colour)


def reduced(pictures: Tensor) -> Tensor:
    """Return pictures at a quarter of their sides, each pixel the mean of 4x4; the last three axes are a picture's."""
    return torch.nn.functional.avg_pool2d(pictures, FACTOR)


def crops(count: int, side: int, rng: Generator, small: float = 0.3) -> Tensor:
    """Return crops on colours: (count, 3, side, side) in [-1, 1]. A share of `small` are of 64x64 pictures."""
    cropped = []
    for _ in range(count):
        picture = large(int(rng.integers(len(all_cutouts()))), drawn_colour(rng))
        if rng.random() < small:
            picture = reduced(picture)
        top, left = rng.integers(picture.shape[-1] - side + 1, size=2)
        cropped.append(picture[:, top : top + side, left : left + side])
    return torch.stack(cropped)
