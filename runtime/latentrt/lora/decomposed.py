"""DoRA: a weight's direction is changed by an adapter, and its length given anew. Liu et al. 2024, equation 5.

Two conventions differ where a file is added in part. Files of peft and diffusers (`lora_magnitude_vector`): the scale
is part of the adapter, m (W + sD) / |W + sD|, and one of 0 does not leave W. Files of LyCORIS (`dora_scale`): the whole
is added in part, W + s (m (W + D) / |W + D| - W), as AUTOMATIC1111 does. At a scale of 1 they are the same. Held
against peft 0.21, LyCORIS 4.1 and the closed form.
"""

from __future__ import annotations

import math

import numpy as np

from latentrt.lora.adapters import Shape
from latentrt.tensors import Array

LYCORIS, PEFT = "dora_scale", "lora_magnitude_vector"
MAGNITUDES = (LYCORIS, PEFT)


def decomposed(weight: Array, added: Array, magnitude: Array, kind: str, scale: np.float32) -> Array:
    """Returns what becomes of a weight, float32 of its shape.

    added: what the adapter adds at a scale of 1. magnitude: as `kind`, one of MAGNITUDES, has it.
    """
    if kind == PEFT:
        return with_magnitude(weight + scale * added, magnitude, kind)
    return weight + scale * (with_magnitude(weight + added, magnitude, kind) - weight)


def with_magnitude(whole: Array, magnitude: Array, kind: str) -> Array:
    """The weight with the length of each row, or of each column over all rows and its kernel, from `magnitude`."""
    axis = axis_of(magnitude.shape, whole.shape, kind)
    others = tuple(place for place in range(whole.ndim) if place != axis)
    lengths = np.sqrt(np.sum(np.square(whole), axis=others, keepdims=True))
    found: Array = whole * (magnitude.reshape(lengths.shape) / np.maximum(lengths, np.finfo(np.float32).tiny))
    return found


def axis_of(magnitude: Shape, weight: Shape, kind: str) -> int:
    """Which axis of a weight has a length each: 0, or 1 for LyCORIS's (1, in, ...), which wd_on_out=False makes.

    Of peft, (out) or (1, out, 1, 1). Raises ValueError for a magnitude that is of neither axis.
    """
    count = math.prod(magnitude)
    if kind == LYCORIS and len(magnitude) > 1 and magnitude[0] == 1 and weight[1:2] == (count,):
        return 1
    if count == weight[0]:
        return 0
    raise ValueError(f"a magnitude {magnitude} is of no axis of {weight}")
