"""Pictures larger than a model was trained for, and pictures that repeat: the model sees windows, which overlap.

At every call each window is denoised by itself, guidance included, and where windows overlap the mean is taken:
MultiDiffusion, Bar-Tal et al. (2023), eq. 5. There, and in diffusers 0.42.1's StableDiffusionPanoramaPipeline, steps
are averaged; as every sampler's step is linear in the latents and in what the model sees in them, that is the same, and
no sampler has to know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from latentrt.sampling.step import Denoise
from latentrt.tensors import Array

WRAPPED = 8  # latents of the other side that the decoder is shown beyond an edge, as in diffusers

Window = tuple[Array, Array]  # the rows and the columns that it shows


def laid(rows: int, columns: int, window: int, stride: int, seamless: Seamless | None) -> list[Window]:
    """The windows over latents of so many rows and columns; all are counted in latents."""
    axes = ((rows, "y"), (columns, "x"))
    down, across = (starts(length, window, stride, wraps=name in (seamless or "")) for length, name in axes)
    high, wide = min(window, rows), min(window, columns)
    return [
        ((np.arange(top, top + high) % rows)[:, np.newaxis], np.arange(left, left + wide) % columns)
        for top in down
        for left in across
    ]


def starts(length: int, window: int, stride: int, *, wraps: bool) -> list[int]:
    """Where windows start along an axis: all of it is covered, the last one ends with it unless it wraps around."""
    if wraps:
        return list(range(0, length, stride))
    last = max(length - window, 0)
    return sorted({*range(0, last, stride), last})


def windowed(denoise: Callable[[Array, float, Window], Array], windows: Sequence[Window]) -> Denoise:
    """A model that sees latents through windows, one after the other, and gives the mean of what it sees."""

    def denoised(x: Array, sigma: float) -> Array:
        total, count = np.zeros_like(x), np.zeros(x.shape[-2:], x.dtype)
        for rows, columns in windows:
            total[..., rows, columns] += denoise(x[..., rows, columns], sigma, (rows, columns))
            count[rows, columns] += 1
        mean: Array = total / count
        return mean

    return denoised


def decoded(decode: Callable[[Array], Array], latents: Array, pixels: int, seamless: Seamless | None) -> Array:
    """The pictures, whose edges meet: the decoder is shown what comes after them. pixels: a side of one latent."""
    if seamless is None:
        return decode(latents)
    down, across = (WRAPPED if name in seamless else 0 for name in "yx")
    wrapped = np.pad(latents, ((0, 0), (0, 0), (down, down), (across, across)), mode="wrap")
    height, width = (side * pixels for side in latents.shape[-2:])
    top, left = down * pixels, across * pixels
    return decode(wrapped)[..., top : top + height, left : left + width]


Seamless = Literal["x", "y", "xy"]
