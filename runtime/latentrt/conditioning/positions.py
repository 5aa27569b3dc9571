"""Positions of patches as sinusoids of their column and row, for denoisers that are transformers.

Source: `get_2d_sincos_pos_embed` of diffusers 0.42.1 (models/embeddings.py), after Chen et al. (2024), "PixArt-Sigma",
section 3: the numbers of patches are scaled so that a picture of any size spans the same range. Or, after Esser et al.
(2024), "Scaling Rectified Flow Transformers", section 5.3.2, a picture is the centre of a square (`cropped_pos_embed`).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from latentrt.bundle.sources import Positions
from latentrt.tensors import Array, TensorSpec, read_only, shape_of

LONGEST_PERIOD = 10000.0


@lru_cache(maxsize=8)
def position_table(spec: TensorSpec, positions: Positions, height: int, width: int) -> Array:
    """The table for latents of that size, (width of the model, rows, columns), read-only, in the type of the input.

    The first half of the channels is of the column, the second of the row; sines come before cosines in each.
    """
    channels, *sides = shape_of(spec, {"height": height, "width": width})
    rows, columns = (sinusoids(numbers(side, positions), channels // 2) for side in sides)
    table = np.empty((channels, *sides), np.float32)
    table[: channels // 2] = columns[:, np.newaxis, :]
    table[channels // 2 :] = rows[:, :, np.newaxis]
    return read_only(table.astype(spec.dtype))


def numbers(side: int, positions: Positions) -> Array:
    """The scaled numbers of the patches along a side, float32 as in the original."""
    whole = positions.table or side
    first = (whole - side) // 2
    counted = np.arange(first, first + side, dtype=np.float32) / np.float32(whole / positions.base)
    scaled: Array = counted / np.float32(positions.scale)
    return scaled


def sinusoids(places: Array, channels: int) -> Array:
    """Sines, then cosines, of every place at falling frequencies, (channels, places), in float64."""
    frequencies = 1.0 / LONGEST_PERIOD ** (np.arange(channels // 2) / (channels / 2))
    angles = np.outer(frequencies, places.astype(np.float64))
    return np.concatenate([np.sin(angles), np.cos(angles)])
