"""Latents brought to another size."""

from __future__ import annotations

from typing import Literal

import numpy as np

from latentrt.tensors import Array


def bilinear(latents: Array, rows: int, columns: int) -> Array:
    """Latents at another size, as torch's `interpolate` with mode "bilinear" makes them: corners not aligned."""
    down, across = (weights(*sides) for sides in zip(latents.shape[-2:], (rows, columns), strict=True))
    grown: Array = (down @ latents @ across.T).astype(np.float32)
    return grown


def weights(given: int, wanted: int) -> Array:
    """Interpolation weights, (wanted, given) float32: row i has the weights of output i."""
    places = np.clip((np.arange(wanted) + 0.5) * given / wanted - 0.5, 0, given - 1)
    found: Array = np.maximum(0, 1 - np.abs(places[:, np.newaxis] - np.arange(given)))
    return found.astype(np.float32)


Upscaler = Literal["latent", "lanczos"]
