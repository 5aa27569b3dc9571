"""Weights in 4 bits: symmetric, -8 to 7, one scale per block of input channels and output channel.

The value of largest magnitude in a block becomes -8, of whichever sign it is: scales may be negative. That uses all 16
steps, which gains 1 dB over a scale of a seventh of the largest magnitude. With the second moments of the layer's
input, the error of each input channel is made up for by the channels after it: Frantar et al. 2022 (GPTQ),
arXiv:2210.17323, equation 2 in the order of algorithm 1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from latentrt.tensors import Array

LOWEST, HIGHEST = -8, 7
BLOCK = 32
COLUMNS = 2048  # at once, so that a block of them stays in a core's cache
# Scales that are tried, as multiples of the one that maps the value of largest magnitude to -8: clipping gains 0.4 dB.
SHRINKS = tuple(np.linspace(1.0, 0.75, 13).tolist())
# Added to the moments' diagonal, as a multiple of its mean. GPTQ adds 0.01, which trusts a sample of the inputs too
# much: pictures of the built-in model then gain nothing over rounding to the nearest, and 1.2 dB at 1.
DAMPING = 1.0


@dataclass(frozen=True)
class BlockWeight:
    """A weight in 4 bits. values: (in, out) int8, -8 to 7. scales: (in / block, out) float32, none of them zero."""

    values: NDArray[np.int8]
    scales: NDArray[np.float32]

    @property
    def block(self) -> int:
        """The number of input channels of a block."""
        return len(self.values) // len(self.scales)

    def decoded(self) -> NDArray[np.float32]:
        """The weight that the graph computes with, (in, out): each value times the scale of its block."""
        scales = np.repeat(self.scales, self.block, axis=0)
        return np.multiply(self.values, scales, dtype=np.float32)


def in_blocks(
    weight: Array, block: int = BLOCK, *, inputs: Array | None = None, scale_dtype: DTypeLike = np.float32
) -> BlockWeight:
    """Returns the weight in 4 bits.

    weight: (in, out), any floats; `block` divides in. inputs: (n, in), a sample of the layer's inputs; None rounds
    every value to the nearest. scale_dtype: type of the scales in the graph; they are rounded to it first, so that
    values fit the rounded scales. A weight of which every block is {-s, 0, s} decodes to the same bits, if scale_dtype
    holds s.
    """
    spread = None if inputs is None or not len(inputs) else feedback(inputs)
    values = np.empty(weight.shape, np.int8)
    scales = np.empty((len(weight) // block, weight.shape[1]), np.float32)

    def fill(columns: slice) -> None:
        part = np.array(weight[:, columns], np.float32)
        fill_columns(values[:, columns], scales[:, columns], part, spread, scale_dtype)

    # Columns do not depend on each other. With feedback they stay together for one product of matrices.
    width = COLUMNS if spread is None else weight.shape[1]
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # NumPy computes outside Python's lock
        list(threads.map(fill, (slice(start, start + width) for start in range(0, weight.shape[1], width))))
    return BlockWeight(values, scales)


def fill_columns(
    values: NDArray[np.int8],
    scales: NDArray[np.float32],
    left: NDArray[np.float32],
    spread: NDArray[np.float32] | None,
    scale_dtype: DTypeLike,
) -> None:
    """Fills values and scales of some columns. left: their weight, changed in place; spread: from `feedback`."""
    block = len(left) // len(scales)
    for number in range(len(scales)):
        rows = slice(number * block, (number + 1) * block)
        scales[number] = best_scales(left[rows], scale_dtype)
        if spread is None:
            values[rows] = rounded(left[rows], scales[number])
            continue
        for row in range(rows.start, rows.stop):
            values[row] = rounded(left[row], scales[number])
            error = (left[row] - values[row] * scales[number]) / spread[row, row]
            left[row + 1 : rows.stop] -= np.outer(spread[row, row + 1 : rows.stop], error)
            left[row] = error  # not read as a weight again
        left[rows.stop :] -= spread[rows, rows.stop :].T @ left[rows]


def feedback(inputs: Array) -> NDArray[np.float32]:
    """The upper Cholesky factor U of the inverse of the inputs' damped second moments H: H^-1 = U^T U, (in, in).

    Row i, divided by its diagonal, is the share of channel i's error that every later channel makes up for.
    """
    rows = inputs.astype(np.float32)
    moments: NDArray[np.float32] = rows.T @ rows / np.float32(len(rows))
    diagonal = np.diag_indices_from(moments)
    mean = moments[diagonal].mean()
    moments[diagonal] += DAMPING * mean if mean > 0 else 1
    # The factor of the matrix with both axes reversed, reversed back, is upper, and its inverse is U.
    reverse = np.linalg.cholesky(moments[::-1, ::-1])[::-1, ::-1]
    upper: NDArray[np.float32] = np.linalg.inv(reverse).astype(np.float32)
    return upper


def best_scales(rows: NDArray[np.float32], dtype: DTypeLike) -> NDArray[np.float32]:
    """The scale of each column of least squared error, (columns,); the first of equals. rows: (block, columns)."""
    best, least = None, None
    for scales in candidates(rows, dtype):
        error = squared_error(rows, scales)
        if best is None or least is None:
            best, least = scales, error
        else:
            better = error < least
            best, least = np.where(better, scales, best), np.where(better, error, least)
    assert best is not None
    return best


def candidates(rows: NDArray[np.float32], dtype: DTypeLike) -> Iterator[NDArray[np.float32]]:
    """Yields the scales that are tried for the columns, rounded to `dtype`.

    The first is for blocks of three values: -s, 0 and s become -1, 0 and 1, which decode to the same bits.
    """
    largest = np.take_along_axis(rows, np.abs(rows).argmax(0)[np.newaxis], 0)[0]
    yield representable(np.abs(largest), dtype)
    for factor in SHRINKS:
        yield representable(largest * np.float32(factor / LOWEST), dtype)


def representable(scales: NDArray[np.float32], dtype: DTypeLike) -> NDArray[np.float32]:
    """The scales rounded to `dtype`, with their signs, none of them zero."""
    cast: NDArray[np.float32] = scales.astype(dtype).astype(np.float32)
    smallest = np.float32(np.finfo(dtype).smallest_subnormal)
    return np.where(cast == 0, np.copysign(smallest, scales), cast).astype(np.float32)


def squared_error(rows: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """The squared error of each column with these scales, (columns,)."""
    error = rounded(rows, scales)
    error *= scales
    error -= rows
    found: NDArray[np.float32] = np.square(error, out=error).sum(0)
    return found


def rounded(rows: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """rows / scales, rounded to integers (ties to even) and clipped to -8 to 7."""
    steps = rows / scales
    return np.clip(np.rint(steps, out=steps), LOWEST, HIGHEST, out=steps)
