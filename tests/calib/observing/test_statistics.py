"""What is kept of one value, against NumPy on all of it at once."""

import numpy as np
import pytest

from latentrt_calib.observing.histogram import Histogram
from latentrt_calib.observing.observe import random_keys_of
from latentrt_calib.observing.statistics import ChannelStatistics, statistics_from_arrays

RNG = np.random.default_rng(0)
SHAPES = {"image": (2, 5, 4, 3), "tokens": (2, 9, 5), "rows": (6, 5)}


def parts_of(shape, calls=12):
    """Values of several calls: some are offset by channel, none is like another."""
    return [RNG.standard_normal(shape).astype(np.float32) * (1 + call) - 0.3 * call for call in range(calls)]


def watched(parts, buckets=3, limit=20, order=None):
    watch = ChannelStatistics(buckets, 5, limit)
    for call in range(len(parts)) if order is None else order:
        watch.add(parts[call], call % buckets, random_keys_of(0, 0, call))
    return watch


def by_channel(part):
    """(values, channels) of one call."""
    return np.moveaxis(part, 1, -1).reshape(-1, 5) if part.ndim == 4 else part.reshape(-1, 5)


def same(one, other):
    one, other = one.arrays(), other.arrays()
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_channels_and_histograms_are_those_of_all_values(shape):
    parts = parts_of(shape)
    watch = watched(parts)
    for bucket in range(3):
        rows = np.concatenate([by_channel(part) for part in parts[bucket::3]])
        histogram = Histogram()
        histogram.add(rows)
        np.testing.assert_array_equal(watch.histograms[bucket].counts, histogram.counts)
        assert (watch.histograms[bucket].low, watch.histograms[bucket].high) == (rows.min(), rows.max())
        np.testing.assert_array_equal(watch.absmax[bucket], np.abs(rows).max(0))
        np.testing.assert_allclose(watch.sums[bucket], rows.sum(0, dtype=np.float64), rtol=1e-12)
        assert watch.counts[bucket] == len(rows)


@pytest.mark.parametrize("shape", [SHAPES["tokens"], SHAPES["rows"]])
def test_rows_are_drawn_from_all_calls_without_replacement(shape):
    parts = parts_of(shape)
    rows = np.concatenate([by_channel(part) for part in parts])
    kept = watched(parts).rows
    assert kept.shape == (20, 5)
    found = [int(np.flatnonzero((rows == row).all(1))[0]) for row in kept]
    assert len(set(found)) == 20
    assert sorted(map(tuple, watched(parts, limit=len(rows) + 9).rows.tolist())) == sorted(map(tuple, rows.tolist()))
    assert not watched(parts, limit=0).rows.size


def test_every_row_has_the_same_chance():
    seen = np.zeros(100)
    parts = np.arange(500, dtype=np.float32).reshape(5, 20, 5)
    for seed in range(200):
        watch = ChannelStatistics(1, 5, 25)
        for call, part in enumerate(parts):
            watch.add(part, 0, random_keys_of(seed, 0, call))
        seen[(watch.rows[:, 0] / 5).astype(int)] += 1
    # 200 draws with a chance of a quarter: 50, with a standard deviation of 6.1; of the mean of 20, about 1.4.
    assert seen.sum() == 200 * 25 and np.abs(seen - 50).max() < 5 * 6.1
    assert np.abs(seen.reshape(5, 20).mean(1) - 50).max() < 5 * 1.4


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_what_was_put_away_goes_on_as_if_it_had_not_been(shape):
    parts = parts_of(shape)
    whole, half = watched(parts), watched(parts, order=range(5))
    half = statistics_from_arrays(half.arrays(), 20)
    for call in range(5, len(parts)):
        half.add(parts[call], call % 3, random_keys_of(0, 0, call))
    assert same(half, whole)


def test_the_order_of_calls_matters_to_sums_alone():
    parts = parts_of(SHAPES["tokens"])
    one, other = watched(parts).arrays(), watched(parts, order=[7, 2, 11, 0, 9, 4, 5, 1, 3, 10, 8, 6]).arrays()
    np.testing.assert_allclose(one.pop("sums"), other.pop("sums"), rtol=1e-12)
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_half_precision_does_not_overflow():
    part = np.full((2, 300, 5), 60000, np.float16)
    watch = watched([part], buckets=1)
    assert watch.sums.tolist() == [[60000 * 600] * 5] and watch.absmax.max() == 60000 == watch.rows.max()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_is_taken_in_not_at_all(wrong):
    parts = parts_of(SHAPES["tokens"], 2)
    watch = watched(parts)
    bad = parts[0].copy()
    bad[1, 3, 2] = wrong
    with pytest.raises(ValueError, match="not finite"):
        watch.add(bad, 0, random_keys_of(0, 0, 2))
    assert same(watch, watched(parts))
