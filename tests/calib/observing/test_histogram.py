"""The histogram against NumPy's own, and what it promises whatever the order."""

import math

import numpy as np
import pytest

from latentrt_calib.observing.histogram import BINS, SMALLEST_EXPONENT, Histogram, merged

RNG = np.random.default_rng(0)
SETS = {
    "normal": RNG.standard_normal(20_000),
    "wide": RNG.standard_normal(5_000) * 10.0 ** RNG.integers(-6, 30, 5_000),
    "tail": RNG.standard_t(2, 20_000),
    "positive": RNG.exponential(3, 10_000) + 5,
    "powers": np.concatenate([sign * 2.0 ** np.arange(-20, 21) for sign in (1, -1)]),
    "one": np.array([-0.3]),
    "zeros": np.zeros(7),
    "tiny": np.array([-1e-20, 1e-20, 0.0, -0.0]),
    "largest": np.array([np.finfo(np.float32).max, -1.0]),
}


def of(*parts):
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


def same(one, other):
    extremes = (one.low, one.high) == (other.low, other.high)
    return extremes and one.exponent == other.exponent and np.array_equal(one.counts, other.counts)


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_counts_are_those_of_numpy(values):
    values = values.astype(np.float32)
    histogram = of(values)
    expected, _ = np.histogram(values.astype(np.float64), histogram.edges())
    np.testing.assert_array_equal(histogram.counts, expected)
    assert (histogram.low, histogram.high, histogram.count) == (values.min(), values.max(), values.size)


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_the_range_is_the_smallest_power_of_two_that_holds_all(values):
    histogram, reach = of(values.astype(np.float32)), float(np.abs(values.astype(np.float32)).max())
    assert reach < 2.0**histogram.exponent
    assert histogram.exponent == SMALLEST_EXPONENT or reach >= 2.0 ** (histogram.exponent - 1)
    assert histogram.edges()[[0, -1]].tolist() == [-(2.0**histogram.exponent), 2.0**histogram.exponent]


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_neither_order_nor_parts_nor_merging_matter(values):
    values = values.astype(np.float32)
    whole = of(values)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        parts = np.split(rng.permutation(values), np.sort(rng.integers(0, len(values) + 1, 4)))
        assert same(of(*parts), whole)
        assert same(merged(map(of, parts)), whole)


def test_shapes_and_half_precision_count_alike():
    values = RNG.standard_normal((2, 3, 5, 7)).astype(np.float16)
    assert same(of(values), of(values.astype(np.float32).ravel()))
    assert same(of(values.transpose(3, 1, 0, 2)), of(values))
    assert same(of(np.zeros((0, 4), np.float32)), Histogram())


def test_an_array_longer_than_a_block_is_counted_whole():
    values = RNG.standard_normal((3 << 16) + 5).astype(np.float32)
    expected, _ = np.histogram(values, of(values).edges())
    np.testing.assert_array_equal(of(values).counts, expected)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_counts_nothing(wrong):
    histogram = of(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="not finite"):
        histogram.add(np.array([9.0, wrong, 1.0], np.float32))
    assert same(histogram, of(np.ones(3, np.float32)))


def test_an_empty_histogram_has_no_extremes():
    empty = Histogram()
    assert (empty.count, empty.low, empty.high, len(empty.counts)) == (0, math.inf, -math.inf, BINS)
    assert same(merged([empty, Histogram()]), empty)
    assert same(merged([empty, of(np.ones(3, np.float32))]), of(np.ones(3, np.float32)))
