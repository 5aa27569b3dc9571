"""Rotations of the places of tokens and latents, for transformers with rotary position embeddings.

Source: Su et al. (2021), "RoFormer", section 3.2.2; `Flux2PosEmbed` of diffusers 0.42.1 (models/transformers/
transformer_flux2.py) and the coordinates of its Flux2KleinPipeline, whose tables these equal bit for bit.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from latentrt.bundle.sources import Rotary
from latentrt.tensors import Array, read_only

# Rows and columns of a picture in latents.
Size = tuple[int, int]


@lru_cache(maxsize=8)
def text_rotations(rotary: Rotary, tokens: int) -> Array:
    """The table of a text's tokens, (2, tokens, pairs) float32, read-only: cosines, then sines."""
    places = np.zeros((tokens, 4))
    places[:, 3] = np.arange(tokens)
    return read_only(rotations(rotary, places))


@lru_cache(maxsize=8)
def image_rotations(rotary: Rotary, size: Size, references: tuple[Size, ...] = ()) -> Array:
    """The table of a picture's latents, (2, rows, columns, pairs) float32, read-only.

    With references, whose latents follow those of the picture, all are one row: (2, 1, places, pairs).
    """
    if not references:
        return read_only(rotations(rotary, places_of(size, 0)).reshape(2, *size, -1).copy())
    times = [rotary.references * place for place in range(len(references) + 1)]
    places = [places_of(one, time) for one, time in zip((size, *references), times, strict=True)]
    return read_only(rotations(rotary, np.concatenate(places))[:, np.newaxis].copy())


def places_of(size: Size, time: int) -> Array:
    """Time, row, column and token of every latent of a picture, row by row, (places, 4)."""
    rows, columns = size
    places = np.zeros((rows, columns, 4))
    places[..., 0], places[..., 1], places[..., 2] = time, np.arange(rows)[:, np.newaxis], np.arange(columns)
    return places.reshape(-1, 4)


def rotations(rotary: Rotary, places: Array) -> Array:
    """Cosines and sines of the angles at places (places, 4), (2, places, pairs) float32; computed in float64."""
    angles = np.concatenate(
        [
            np.outer(places[:, axis], 1.0 / rotary.theta ** (np.arange(0, channels, 2) / channels))
            for axis, channels in enumerate(rotary.axes)
        ],
        axis=1,
    )
    return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
