"""A histogram of a stream of values in fixed memory, whose range doubles when a value exceeds it.

The range and the width of a bin are powers of two: a value's bin is computed without rounding, and doubling merges bins
in pairs. So the counts depend on the values only, not on their order or their division into calls.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from latentrt.tensors import Array

BINS = 2048
HALF = BINS // 2
# No range is narrower than +-2**-40: values that close to zero share the two bins around zero.
SMALLEST_EXPONENT = -40
BLOCK = 1 << 16  # values at a time, so that the temporary arrays stay in the cache


class Histogram:
    """Counts of values in BINS equal bins over [-2**exponent, 2**exponent), and their exact extremes.

    exponent: the smallest whose range holds every value. counts: (BINS,) int64; bin i begins at (i - HALF) * width.
    low, high: the smallest and the largest value; infinity and minus infinity before the first value.
    """

    def __init__(self) -> None:
        self.exponent = SMALLEST_EXPONENT
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.low, self.high = math.inf, -math.inf

    @property
    def count(self) -> int:
        """The number of values."""
        return int(self.counts.sum())

    @property
    def width(self) -> float:
        """The width of a bin."""
        return math.ldexp(1, self.exponent) / HALF

    def edges(self) -> NDArray[np.float64]:
        """The exact edges of the bins, (BINS + 1,) float64, ascending."""
        edges: NDArray[np.float64] = np.arange(-HALF, HALF + 1, dtype=np.float64)
        return np.multiply(edges, self.width, out=edges)

    def add(self, values: Array, extremes: tuple[float, float] | None = None) -> None:
        """Counts values of any shape, float16 or float32; others are rounded to float32.

        extremes: least and largest value, if known. Raises ValueError, and counts nothing, if a value is not finite.
        """
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        if not flat.size:
            return
        low, high = extremes or (float(flat.min()), float(flat.max()))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("a value is not finite")
        self._widen(low, high)
        scale = np.float32(1 / self.width)
        bins, index = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.intp)
        for start in range(0, flat.size, BLOCK):
            block = flat[start : start + BLOCK]
            scaled, whole = bins[: block.size], index[: block.size]
            # Floor before the shift: the sum of a small negative number and HALF would round up to HALF.
            np.floor(np.multiply(block, scale, out=scaled), out=scaled)
            np.copyto(whole, np.add(scaled, HALF, out=scaled), casting="unsafe")
            self.counts += np.bincount(whole, minlength=BINS)

    def merge(self, other: Histogram) -> None:
        """Adds the counts of `other`."""
        if other.count:
            self._widen(other.low, other.high)
            np.add.at(self.counts, _joined(self.exponent - other.exponent), other.counts)

    def _widen(self, low: float, high: float) -> None:
        """Updates the extremes, and doubles the range until it holds them."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        reach = max(-low, high)
        _, needed = math.frexp(reach)  # reach < 2**needed, strictly
        if reach and needed > self.exponent:
            counts = np.zeros_like(self.counts)
            np.add.at(counts, _joined(needed - self.exponent), self.counts)
            self.exponent, self.counts = needed, counts


def _joined(doublings: int) -> NDArray[np.int64]:
    """The new bin of each bin after the range has doubled `doublings` times."""
    return (np.arange(-HALF, HALF, dtype=np.int64) >> min(doublings, 62)) + HALF


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """Returns the sum of `histograms`."""
    total = Histogram()
    for histogram in histograms:
        total.merge(histogram)
    return total
