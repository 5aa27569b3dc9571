"""All cut-outs at once, and pictures drawn from them: what the training stages show their models."""

import os
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from emoji import compose, index
from emoji.fetch import FOLDER
from emoji.words import COLOURS

PALETTE = np.array(list(COLOURS.values()), dtype=np.uint8)
WHITE = list(COLOURS).index("white")


@cache
def all_cutouts() -> NDArray[np.uint8]:
    """Return every cut-out in the index's order: (pictures, 128, 128, 4) uint8, colour times alpha, then alpha."""
    return np.array(cached("cutouts.npy", lambda row: compose.load(row.path)))


def cached(name: str, made: Callable[[index.Row], compose.Array]) -> NDArray[np.uint8]:
    """Return one picture a row of the index from a file, mapped: uint8, of values in [0, 1]. Make the file if need be.

    Processes that train together may all make it: each writes a file of its own, and the last one to finish stays.
    """
    file = FOLDER / name
    rows = index.load()
    if not file.is_file() or len(np.load(file, mmap_mode="r")) != len(rows):
        written = file.with_name(f"{os.getpid()}.{name}")
        np.save(written, np.stack([np.round(made(row) * 255).astype(np.uint8) for row in rows]))
        written.replace(file)
    mapped: NDArray[np.uint8] = np.load(file, mmap_mode="r")
    return mapped


def cutout(number: int) -> compose.Array:
    """Return one cut-out: (128, 128, 4) float32 in [0, 1]."""
    return all_cutouts()[number].astype(np.float32) / 255


def on_colour(picture: compose.Array, colour: int) -> Tensor:
    """Return a cut-out on a colour of the palette: (3, 128, 128) in [-1, 1]."""
    pixels = compose.on_background(picture, tuple(PALETTE[colour])) * 2 - 1
    return torch.from_numpy(pixels).permute(2, 0, 1)


def drawn_colour(rng: Generator, plain: float = 0.4) -> int:
    """Return a colour's number: white with a probability of `plain`, else any."""
    return WHITE if rng.random() < plain else int(rng.integers(len(PALETTE)))


def draw(count: int, rng: Generator, plain: float = 0.4, pairs: float = 0.1) -> Tensor:
    """Return random pictures: (count, 3, 128, 128) in [-1, 1].

    A share of `plain` is on white for certain, the others on any colour; a share of `pairs` has two side by side.
    """
    drawn = []
    for _ in range(count):
        left, right = rng.integers(len(all_cutouts()), size=2)
        colour = drawn_colour(rng, plain)
        picture = cutout(left)
        if rng.random() < pairs:
            picture = compose.beside(picture, cutout(right))
        drawn.append(on_colour(picture, colour))
    return torch.stack(drawn)
