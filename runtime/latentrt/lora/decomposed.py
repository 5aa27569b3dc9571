"""DoRA: an adapter changes a weight's direction, a magnitude vector sets its length. Liu et al. 2024, equation 5.

At scales other than 1, two conventions differ. peft and diffusers (`lora_magnitude_vector`) scale the adapter D alone:
m (W + sD) / |W + sD|, so that a scale of 0 still changes W. LyCORIS (`dora_scale`) scales the whole change, as
AUTOMATIC1111 does: W + s (m (W + D) / |W + D| - W). Compared with peft 0.21, LyCORIS 4.1 and the closed form.
"""

from __future__ import annotations

import math

import numpy as np

from latentrt.lora.adapters import Shape
from latentrt.tensors import Array

LYCORIS, PEFT = "dora_scale", "lora_magnitude_vector"
MAGNITUDES = (LYCORIS, PEFT)


def decomposed(weight: Array, added: Array, magnitude: Array, kind: str, scale: np.float32) -> Array:
    """Returns the new weight, float32 of the same shape.

    added: the adapter's change at a scale of 1. magnitude: the magnitude vector. kind: its name, one of MAGNITUDES.
    """
    if kind == PEFT:
        return with_magnitude(weight + scale * added, magnitude, kind)
    return weight + scale * (with_magnitude(weight + added, magnitude, kind) - weight)


def with_magnitude(whole: Array, magnitude: Array, kind: str) -> Array:
    """The weight with the length of each row, or of each input channel's slice, from `magnitude`."""
    axis = axis_of(magnitude.shape, whole.shape, kind)
    others = tuple(other for other in range(whole.ndim) if other != axis)
    lengths = np.sqrt(np.sum(np.square(whole), axis=others, keepdims=True))
    found: Array = whole * (magnitude.reshape(lengths.shape) / np.maximum(lengths, np.finfo(np.float32).tiny))
    return found


def axis_of(magnitude: Shape, weight: Shape, kind: str) -> int:
    """The weight's axis that the magnitude vector runs along: 0; 1 for LyCORIS's (1, in, ...) of wd_on_out=False.

    peft's magnitudes are (out) or (1, out, 1, 1). Raises ValueError for a magnitude that fits neither axis.
    """
    count = math.prod(magnitude)
    if kind == LYCORIS and len(magnitude) > 1 and magnitude[0] == 1 and weight[1:2] == (count,):
        return 1
    if count == weight[0]:
        return 0
    raise ValueError(f"the magnitude {magnitude} fits no axis of {weight}")
