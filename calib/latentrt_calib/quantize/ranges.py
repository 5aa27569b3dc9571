"""Which range of values an 8-bit number is to cover: all of them, most of them, or what loses least.

The loss of a range is read off the histogram as if values lay evenly within each bin; it is integrated in closed form,
so that it is right for steps finer than a bin as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from latentrt_calib.observing.histogram import Histogram

# The search for an end looks at these shares of it, as powers of two, then more closely around the best of them. Two
# ends take turns.
COARSE, FINE = np.linspace(-4, 0, 17), np.linspace(-0.25, 0.25, 17)
ROUNDS = 2
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Scheme:
    """How a number is stored: q = clip(round(x / scale) + zero point, lowest, highest).

    dtype: NumPy's name. symmetric: the zero point is 0, and a range reaches as far below it as above.
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
    """Returns the range of all values; (0, 0) where there is none."""
    return Range(histogram.low, histogram.high) if histogram.count else Range(0.0, 0.0)


def percentile(histogram: Histogram, share: float) -> Range:
    """Returns the range that leaves out (1 - share) / 2 of the values at each end, to within a bin.

    share: over 0 to 1, where 1 is `minmax`. Raises ValueError for another share.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share: got {share}, expected over 0 and at most 1")
    if share == 1 or not histogram.count:
        return minmax(histogram)
    left = (1 - share) / 2
    return Range(_quantile(histogram, left), _quantile(histogram, 1 - left))


def _quantile(histogram: Histogram, share: float) -> float:
    """The value that a share of all lies below, if they lie evenly within its bin."""
    reached = np.cumsum(histogram.counts)
    place = share * histogram.count
    bin_ = int(np.searchsorted(reached, place))
    inside = (place - (reached[bin_] - histogram.counts[bin_])) / histogram.counts[bin_]
    value = float(histogram.edges()[bin_] + inside * histogram.width)
    return min(max(value, histogram.low), histogram.high)


def mse(histogram: Histogram, scheme: Scheme) -> Range:
    """Returns the range within the extremes whose quantization has the least expected squared error.

    No range found loses more than `minmax` does.
    """
    whole = minmax(histogram)
    if scheme.symmetric:
        reach = max(-whole.low, whole.high)
        return _searched(histogram, scheme, Range(-reach, reach), [("low", "high")])
    ends = [(end,) for end, reach in (("high", whole.high), ("low", -whole.low)) if reach > 0]
    return _searched(histogram, scheme, whole, ends * (ROUNDS if len(ends) > 1 else 1))


def _searched(histogram: Histogram, scheme: Scheme, whole: Range, turns: Sequence[tuple[str, ...]]) -> Range:
    """The best range found by shrinking the ends of `whole` that each turn names, together."""
    best, lost = whole, expected_error(histogram, whole, scheme)
    for ends in turns:
        centre = 0.0
        for places in (COARSE, FINE):
            powers = np.minimum(centre + places, 0.0).tolist()
            tried = [replace(best, **{end: getattr(whole, end) * 2**power for end in ends}) for power in powers]
            errors = expected_errors(histogram, tried, scheme)
            least = int(errors.argmin())
            if errors[least] < lost:
                best, lost, centre = tried[least], float(errors[least]), powers[least]
    return best


def expected_error(histogram: Histogram, values: Range, scheme: Scheme) -> float:
    """Returns the mean squared error of storing the histogram's values with `values` as their range; 0 for none."""
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
    # The outermost bins hold values up to the extremes only; one that is left without width holds its edge.
    edges = histogram.edges()[first : last + 2]
    edges = np.minimum(np.maximum(edges, histogram.low), histogram.high) / scales
    widths = np.diff(edges)
    errors = np.diff(_primitive(edges, lowest, highest)) / np.where(widths, widths, 1)
    errors += np.where(widths, 0, _distance(edges[:, :-1], lowest, highest) ** 2)
    total: NDArray[np.float64] = errors @ histogram.counts[first : last + 1] / histogram.count * scales[:, 0] ** 2
    return total


def _distance(x: NDArray[np.float64], lowest: NDArray[np.int64], highest: NDArray[np.int64]) -> NDArray[np.float64]:
    """How far `x` is above the nearest whole number from `lowest` to `highest`."""
    return x - np.minimum(np.maximum(np.rint(x), lowest), highest)


def _primitive(x: NDArray[np.float64], lowest: NDArray[np.int64], highest: NDArray[np.int64]) -> NDArray[np.float64]:
    """A primitive of the square of `_distance`: each whole number on the way adds 2 / 3 * 0.5**3 = 1 / 12."""
    distance = _distance(x, lowest, highest)
    return (x - distance) / 12 + distance * distance * distance / 3


def scale_and_zero(values: Range, scheme: Scheme) -> tuple[np.float32, int]:
    """Returns the step, above zero, and the zero point with which the scheme covers `values`; 0 is stored exactly.

    Asymmetric: the range is extended to zero, and moved by up to half a step for a whole zero point. The scale of a
    range with nothing but 0 in it is 1.
    """
    low, high = min(values.low, 0.0), max(values.high, 0.0)
    if low == high:
        return np.float32(1), 0 if scheme.symmetric else scheme.lowest
    if scheme.symmetric:
        return np.float32(max(max(-low, high) / scheme.highest, SMALLEST_SCALE)), 0
    scale = np.float32(max((high - low) / (scheme.highest - scheme.lowest), SMALLEST_SCALE))
    zero = round(scheme.lowest - low / float(scale))
    return scale, min(max(zero, scheme.lowest), scheme.highest)
