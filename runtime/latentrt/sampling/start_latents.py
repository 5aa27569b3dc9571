"""The latents that a run starts from: noise, or a clean image noised to the level of the first step."""

from __future__ import annotations

from typing import Literal

import numpy as np

from latentrt.sampling.grids import Grid
from latentrt.sampling.schedule import noise_scale, signal_scale
from latentrt.tensors import Array


def sample_posterior(mean: Array, deviation: Array, noise: Array | None, batch: int) -> Array:
    """Latents of each image, (batch, channels, rows, columns): the VAE posterior's mean, or with noise a sample."""
    return np.repeat(mean, batch, axis=0) if noise is None else mean + deviation * noise


def starting_latents(grid: Grid, noise: Array, clean: Array | None, *, alone: bool) -> Array:
    """The latents that a run starts from: noise, or a clean image noised to the first level.

    alone: start from noise even with an image, as diffusers does for inpainting at strength 1.
    """
    if clean is None or alone:
        return (grid.start * noise).astype(np.float32, copy=False)
    return add_noise(clean, noise, float(grid.sigmas[0]))


def keep_unmasked(mask: Array, clean: Array, noise: Array, latents: Array, sigma: float) -> None:
    """Overwrites latents outside the mask with the image, noised to `sigma`."""
    np.copyto(latents, add_noise(clean, noise, sigma), where=~mask)


def add_noise(latents: Array, noise: Array, sigma: float) -> Array:
    """Clean latents noised to `sigma`: float32, unit variance, of the same shape (diffusers' add_noise)."""
    mixed: Array = signal_scale(sigma) * latents + noise_scale(sigma) * noise
    return mixed


Posterior = Literal["mean", "sample"]
