"""Reference images: latents of pictures that a model is shown beside the one it draws.

As in diffusers 0.42.1's Flux2KleinPipeline: their rows follow those of the picture in every call, and only their place
in time tells them apart (`latentrt.conditioning.rotary`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latentrt.conditioning.rotary import Size
from latentrt.tensors import Array


@dataclass(frozen=True)
class References:
    """The latents of all reference images one after another, (1, channels, 1, places), and the size of each."""

    latents: Array
    sizes: tuple[Size, ...]

    @classmethod
    def of(cls, latents: Sequence[Array]) -> References:
        """The references of the latents of each image, (1, channels, rows, columns)."""
        flat = [one.reshape(*one.shape[:2], 1, -1) for one in latents]
        return cls(np.concatenate(flat, -1), tuple((one.shape[2], one.shape[3]) for one in latents))

    def joined(self, sample: Array) -> Array:
        """The latents of each picture of a batch as one row, the references' after: (batch, channels, 1, places)."""
        row = sample.reshape(*sample.shape[:2], 1, -1)
        latents = self.latents.astype(row.dtype, copy=False)
        return np.concatenate([row, np.broadcast_to(latents, (len(row), *latents.shape[1:]))], -1)

    def parted(self, output: Array, places: int) -> Array:
        """The output at the first places, those of the picture."""
        return output[..., :places]
