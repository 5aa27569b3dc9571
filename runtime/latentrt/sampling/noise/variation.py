"""Variations of an image: its noise turned part of the way towards the noise of another seed.

The turn is spherical, Shoemake, Animating Rotation with Quaternion Curves (1985), so what lies between two noises is as
strong as they are; a straight mix of two would lose up to 29 % of it. `varied` measures angles column by column, which
is odd but what AUTOMATIC1111's variation seeds do, and so a published seed, variation seed and strength give the same
image here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latentrt.errors import RequestError

Floats = NDArray[np.float32]

_ROWS = -2  # a column of latents is a vector of its rows
_LEAST_SINE = 1e-7  # below it an angle in float64 is mostly rounding


def varied(noise: Floats, other: Floats, strength: float) -> Floats:
    """Return the noise of a variation: float32 (channels, rows, columns), `noise` at strength 0 and `other` at 1.

    noise, other: (channels, rows, columns) of one image, from its seed and from its variation seed. As
    AUTOMATIC1111/stable-diffusion-webui 1.10 (``modules/rng.py``) to the last few bits of float32. Only for noises that
    are nearly the same does that one mix straight, and for columns without an angle it gives NaN; see `slerp`.
    Raises RequestError (a ValueError) for a strength outside 0 to 1 or noises of different shapes.
    """
    if not 0 <= strength <= 1:
        raise RequestError(f"variation strength: got {strength}, expected 0 to 1")
    if noise.shape != other.shape:
        raise RequestError(f"a variation needs noise of the same shape: got {noise.shape} and {other.shape}")
    return slerp(strength, noise, other, axis=_ROWS)


def slerp(fraction: float, a: Floats, b: Floats, axis: int | None = None) -> Floats:
    """Return `a` turned by `fraction` of its angle to `b`: float32 of their shape, exactly `a` at 0 and `b` at 1.

    axis: the axis along which the vectors lie, whose angles are taken one by one; None for one angle between the whole
    arrays. Lengths are not made equal: each of `a` and `b` keeps its own weight. Vectors that are parallel, opposite or
    zero have no plane to turn in, and are mixed straight.
    """
    start, end = a.astype(np.float64), b.astype(np.float64)
    lengths = np.sqrt(_inner(start, start, axis) * _inner(end, end, axis))
    cosine = _inner(start, end, axis) / np.where(lengths, lengths, 1)
    angle = np.arccos(np.clip(cosine, -1, 1))
    sine = np.sin(angle)
    turns = (sine > _LEAST_SINE) & (lengths > 0)
    sine = np.where(turns, sine, 1)
    for_a = np.where(turns, np.sin((1 - fraction) * angle) / sine, 1 - fraction)
    for_b = np.where(turns, np.sin(fraction * angle) / sine, fraction)
    mixed: Floats = (for_a * start + for_b * end).astype(np.float32)
    return mixed


def _inner(a: NDArray[np.float64], b: NDArray[np.float64], axis: int | None) -> NDArray[np.float64]:
    """Return the inner products of the vectors along `axis`, which stays as an axis of one."""
    return np.asarray(np.sum(a * b, axis=axis, keepdims=True))
