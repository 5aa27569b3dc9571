"""Resizing of latents."""

from __future__ import annotations

from typing import Literal

import numpy as np

from latentrt.tensors import Array


def bilinear(latents: Array, rows: int, columns: int) -> Array:
    """Latents resized as torch's `interpolate` with mode "bilinear" and align_corners=False."""
    down, across = (weights(*sides) for sides in zip(latents.shape[-2:], (rows, columns), strict=True))
    resized: Array = (down @ latents @ across.T).astype(np.float32)
    return resized


def weights(old: int, new: int) -> Array:
    """Interpolation weights, (new, old) float32: row i has the weights of output i."""
    positions = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    found: Array = np.maximum(0, 1 - np.abs(positions[:, np.newaxis] - np.arange(old)))
    return found.astype(np.float32)


Upscaler = Literal["latent", "lanczos"]
