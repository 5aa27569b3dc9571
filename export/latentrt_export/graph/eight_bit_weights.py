"""Weights in 8 bits: symmetric, -127 to 127, one scale per output channel.

-128 is not used: TensorRT and ONNX Runtime's kernels need a grid that is symmetric about zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

from latentrt.tensors import Array

LARGEST = 127
# Factors of the largest magnitude that the search tries; 8 bits rarely gain from more clipping.
SHRINKS = tuple(np.linspace(1.0, 0.5, 26).tolist())
BLOCK_ELEMENTS = 1 << 20


def quantized(
    weight: Array,
    axis: int,
    *,
    shrinks: Sequence[float] = (1.0,),
    scale_dtype: DTypeLike = np.float32,
    largest: int = LARGEST,
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Returns the weight in int8 and its scales: weight[c] is close to scale[c] * int8[c] along `axis`.

    weight: any floats, any number of axes. The scales are (weight.shape[axis],), above 0. shrinks: factors of the
    largest magnitude to try for each channel; the one of least squared error is used. SHRINKS clips, the default does
    not. scale_dtype: type of the scales in the graph; they are rounded to it first, so that the integers fit the
    rounded scales. largest: the largest magnitude of the integers.
    """
    rows, values = np.moveaxis(weight, axis, 0), np.empty(weight.shape, np.int8)
    stored = np.moveaxis(values, axis, 0)
    scales = initial_scales(rows, scale_dtype, largest)
    for block in blocks(rows):
        part = flat(rows[block])
        scales[block] = best_scales(part, scales[block], shrinks, scale_dtype, largest)
        stored[block] = rounded(part, scales[block], largest).reshape(stored[block].shape)
    return values, scales


def flat(rows: Array) -> NDArray[np.float32]:
    """The rows as a matrix of float32."""
    return rows.reshape(len(rows), -1).astype(np.float32)


def initial_scales(rows: Array, dtype: DTypeLike, largest: int) -> NDArray[np.float32]:
    """The scale at which each row's largest magnitude is `largest`; a row of zeros takes the smallest other scale.

    A convolution's bias is stored in steps of this scale, so the scale of a row of zeros must not be large.
    """
    reach = np.concatenate([np.abs(flat(rows[block])).max(1) for block in blocks(rows)])
    positive = reach[reach > 0]
    reach[reach == 0] = positive.min() if positive.size else 1.0
    return representable(reach / largest, dtype)


def representable(scales: Array, dtype: DTypeLike) -> NDArray[np.float32]:
    """The scales rounded to `dtype`, none of them zero."""
    cast: NDArray[np.float32] = scales.astype(dtype).astype(np.float32)
    return np.maximum(cast, np.float32(np.finfo(dtype).smallest_subnormal))


def blocks(rows: Array) -> Iterator[slice]:
    """Slices over the first axis of about BLOCK_ELEMENTS elements each, to limit memory."""
    step = max(1, BLOCK_ELEMENTS * len(rows) // max(1, rows.size))
    return (slice(start, start + step) for start in range(0, len(rows), step))


def best_scales(
    rows: NDArray[np.float32], scales: NDArray[np.float32], shrinks: Sequence[float], dtype: DTypeLike, largest: int
) -> NDArray[np.float32]:
    """The scale of each row, shrunk by the factor of least squared error; the first of equals."""
    if len(shrinks) == 1:
        return representable(scales * shrinks[0], dtype)
    candidates = [representable(scales * shrink, dtype) for shrink in shrinks]
    errors = [((rounded(rows, scale, largest) * scale[:, None] - rows) ** 2).sum(1) for scale in candidates]
    best: NDArray[np.float32] = np.take_along_axis(np.array(candidates), np.argmin(errors, 0)[None], 0)[0]
    return best


def rounded(rows: NDArray[np.float32], scales: NDArray[np.float32], largest: int) -> NDArray[np.float32]:
    """rows / scales, rounded to integers (ties to even, as QuantizeLinear) and clipped to -largest to largest."""
    steps = rows / scales[:, None]
    return np.clip(np.rint(steps, out=steps), -largest, largest, out=steps)


def dequantized(values: NDArray[np.int8], scale: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Returns the weight that the graph computes with: int8 times the scale of its channel along `axis`."""
    sides = [-1 if other == axis else 1 for other in range(values.ndim)]
    product: NDArray[np.float32] = values * scale.reshape(sides)
    return product
