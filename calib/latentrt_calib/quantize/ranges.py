"""Ranges of values that 8 bits cover: all values, a percentile, or the range of least squared error.

The error of a range is computed from the histogram, with values taken as uniform within each bin. It is integrated in
closed form, so it is also right for quantization steps finer than a bin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from latentrt_calib.observing.histogram import Histogram

# Factors of an end that the search tries, as powers of two: coarse ones, then fine ones around the best. Two ends are
# searched in turn.
COARSE, FINE = np.linspace(-4, 0, 17), np.linspace(-0.25, 0.25, 17)
ROUNDS = 2
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Scheme:
    """Quantization of a number to 8 bits: q = clip(round(x / scale) + zero point, lowest, highest).

    dtype: NumPy's name. symmetric: the zero point is 0, and ranges are symmetric about it.
    """

    dtype: str
    lowest: int
    highest: int
    symmetric: bool


U8 = Scheme("uint8", 0, 255, symmetric=False)
S8 = Scheme("int8", -128, 127, symmetric=True)


@dataclass(frozen=True)
class Range:
    """The values from `low` to `high`, in the tensor's units."""

    low: float
    high: float


def minmax(histogram: Histogram) -> Range:
    """Returns the range of all values; (0, 0) without values."""
    return Range(histogram.low, histogram.high) if histogram.count else Range(0.0, 0.0)


def percentile(histogram: Histogram, share: float) -> Range:
    """Returns the range without (1 - share) / 2 of the values at each end, to within a bin.

    share: of the values inside the range, over 0 and at most 1; 1 is `minmax`. Raises ValueError for another share.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share: got {share}, expected over 0 and at most 1")
    if share == 1 or not histogram.count:
        return minmax(histogram)
    left = (1 - share) / 2
    return Range(_quantile(histogram, left), _quantile(histogram, 1 - left))


def _quantile(histogram: Histogram, share: float) -> float:
    """The value below which a share of all values lies, taken as uniform within each bin."""
    cumulative = np.cumsum(histogram.counts)
    rank = share * histogram.count
    bin_ = int(np.searchsorted(cumulative, rank))
    inside = (rank - (cumulative[bin_] - histogram.counts[bin_])) / histogram.counts[bin_]
    value = float(histogram.edges()[bin_] + inside * histogram.width)
    return min(max(value, histogram.low), histogram.high)


def mse(histogram: Histogram, scheme: Scheme) -> Range:
    """Returns the range within the extremes whose quantization has the least expected squared error.

    Its error is never above that of `minmax`.
    """
    whole = minmax(histogram)
    if scheme.symmetric:
        reach = max(-whole.low, whole.high)
        return _searched(histogram, scheme, Range(-reach, reach), [("low", "high")])
    ends = [(end,) for end, reach in (("high", whole.high), ("low", -whole.low)) if reach > 0]
    return _searched(histogram, scheme, whole, ends * (ROUNDS if len(ends) > 1 else 1))


def _searched(histogram: Histogram, scheme: Scheme, whole: Range, turns: Sequence[tuple[str, ...]]) -> Range:
    """The best range found by shrinking `whole`, in each turn at the ends that it names."""
    best, best_error = whole, expected_error(histogram, whole, scheme)
    for ends in turns:
        centre = 0.0
        for offsets in (COARSE, FINE):
            powers = np.minimum(centre + offsets, 0.0).tolist()
            tried = [replace(best, **{end: getattr(whole, end) * 2**power for end in ends}) for power in powers]
            errors = expected_errors(histogram, tried, scheme)
            least = int(errors.argmin())
            if errors[least] < best_error:
                best, best_error, centre = tried[least], float(errors[least]), powers[least]
    return best


def expected_error(histogram: Histogram, values: Range, scheme: Scheme) -> float:
    """Returns the mean squared error of quantizing the histogram's values over the range `values`; 0 without values."""
    return float(expected_errors(histogram, [values], scheme)[0])


def expected_errors(histogram: Histogram, ranges: Sequence[Range], scheme: Scheme) -> NDArray[np.float64]:
    """Returns the `expected_error` of each range, (ranges,)."""
    if not histogram.count:
        return np.zeros(len(ranges))
    found = [scale_and_zero(values, scheme) for values in ranges]
    scales, zeros = np.array([[float(scale)] for scale, _ in found]), np.array([[zero] for _, zero in found])
    lowest, highest = scheme.lowest - zeros, scheme.highest - zeros
    occupied = np.flatnonzero(histogram.counts)
    first, last = int(occupied[0]), int(occupied[-1])
    # The outermost bins are cut at the extremes; a bin of zero width then has all its values at its edge.
    edges = histogram.edges()[first : last + 2]
    edges = np.minimum(np.maximum(edges, histogram.low), histogram.high) / scales
    widths = np.diff(edges)
    errors = np.diff(_primitive(edges, lowest, highest)) / np.where(widths, widths, 1)
    errors += np.where(widths, 0, _distance(edges[:, :-1], lowest, highest) ** 2)
    total: NDArray[np.float64] = errors @ histogram.counts[first : last + 1] / histogram.count * scales[:, 0] ** 2
    return total


def _distance(x: NDArray[np.float64], lowest: NDArray[np.int64], highest: NDArray[np.int64]) -> NDArray[np.float64]:
    """Signed distance of `x` from the nearest integer within `lowest` to `highest`."""
    return x - np.minimum(np.maximum(np.rint(x), lowest), highest)


def _primitive(x: NDArray[np.float64], lowest: NDArray[np.int64], highest: NDArray[np.int64]) -> NDArray[np.float64]:
    """A primitive of the square of `_distance`: each integer passed adds 2 / 3 * 0.5**3 = 1 / 12."""
    distance = _distance(x, lowest, highest)
    return (x - distance) / 12 + distance * distance * distance / 3


def scale_and_zero(values: Range, scheme: Scheme) -> tuple[np.float32, int]:
    """Returns the scale, above zero, and the zero point that cover the range `values`; 0 is represented exactly.

    Asymmetric: the range is extended to zero, and shifted by up to half a step for an integer zero point. The scale of
    the range (0, 0) is 1.
    """
    low, high = min(values.low, 0.0), max(values.high, 0.0)
    if low == high:
        return np.float32(1), 0 if scheme.symmetric else scheme.lowest
    if scheme.symmetric:
        return np.float32(max(max(-low, high) / scheme.highest, SMALLEST_SCALE)), 0
    scale = np.float32(max((high - low) / (scheme.highest - scheme.lowest), SMALLEST_SCALE))
    zero = round(scheme.lowest - low / float(scale))
    return scale, min(max(zero, scheme.lowest), scheme.highest)
