"""The latents that a run starts from: noise, or a clean image noised to the level of the first step."""

from __future__ import annotations

from typing import Literal

import numpy as np

from latentrt.sampling.grids import Grid
from latentrt.sampling.schedule import alpha, spread
from latentrt.tensors import Array


def drawn(mean: Array, deviation: Array, noise: Array | None, batch: int) -> Array:
    """Latents of each image, (batch, channels, rows, columns): the mean, or with noise a draw from the posterior."""
    return np.repeat(mean, batch, axis=0) if noise is None else mean + deviation * noise


def started(grid: Grid, noise: Array, clean: Array | None, *, alone: bool) -> Array:
    """The latents that a run starts from: noise, or a clean image noised to the first level, but noise if `alone`.

    Inpainting at strength 1 is alone, as in diffusers, and image to image is not.
    """
    if clean is None or alone:
        return (grid.start * noise).astype(np.float32, copy=False)
    return noised(clean, noise, float(grid.sigmas[0]))


def restore(mask: Array, clean: Array, noise: Array, latents: Array, sigma: float) -> None:
    """Writes the image, noised to a level, into latents where they are not painted."""
    np.copyto(latents, noised(clean, noise, sigma), where=~mask)


def noised(latents: Array, noise: Array, sigma: float) -> Array:
    """Clean latents with as much of `noise` as they hold at `sigma`; float32, unit variance, their shape."""
    mixed: Array = alpha(sigma) * latents + spread(sigma) * noise
    return mixed


Posterior = Literal["mean", "sample"]
