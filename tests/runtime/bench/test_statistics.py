"""Statistics compared with NumPy, and with known probabilities."""

import math

import numpy as np
import pytest

from latentrt.bench.statistics import median_rank, samples_needed, summary


@pytest.mark.parametrize("n", [1, 2, 5, 6, 63, 64, 129, 130, 661, 662])
def test_figures_are_numpys_and_percentiles_wait_for_enough_samples(n):
    values = np.random.default_rng(n).lognormal(size=n)
    found = summary(values.tolist())
    assert (found.n, found.min) == (n, values.min())
    assert found.mean == pytest.approx(values.mean()) and found.p50 == pytest.approx(np.median(values))
    assert found.sd == (None if n == 1 else pytest.approx(values.std(ddof=1)))
    for share, got in ((90, found.p90), (95, found.p95), (99, found.p99)):
        assert got == (pytest.approx(np.percentile(values, share)) if n >= samples_needed(share / 100) else None)


def test_as_many_samples_are_needed_as_mlperf_asks_for():
    assert (samples_needed(0.9), samples_needed(0.99)) == (64, 662)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99])
def test_needed_is_where_fewer_than_two_samples_above_become_unlikely(share):
    def chance(n):
        return sum(math.comb(n, k) * (1 - share) ** k * share ** (n - k) for k in (0, 1))

    n = samples_needed(share)
    assert chance(n) <= 0.01 < chance(n - 1)


@pytest.mark.parametrize(("n", "rank"), [(1, None), (5, None), (6, 0), (8, 0), (9, 1), (10, 1), (20, 5), (100, 39)])
def test_the_ranks_around_a_median_are_those_of_tables(n, rank):
    # Conover, Practical Nonparametric Statistics (1999), table A3: 95 %, two-sided; ranks from 0 here.
    assert median_rank(n) == rank


def test_the_interval_covers_the_median_as_often_as_it_says():
    random = np.random.default_rng(0)
    found = [summary(random.exponential(size=10)) for _ in range(2000)]
    share = np.mean([one.low <= math.log(2) <= one.high for one in found])
    assert 0.97 < share < 0.99  # 97.9 % by the binomial distribution, the next narrower interval has 89 %


def test_uncertainty_is_a_share_of_the_median():
    assert summary([1, 2, 3, 4, 5, 6]).uncertainty == pytest.approx(2.5 / 3.5)
    assert summary([1, 2]).uncertainty is None and summary([0] * 6).uncertainty is None
