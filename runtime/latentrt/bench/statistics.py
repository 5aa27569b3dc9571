"""Samples in a few figures, each only where there are enough samples to know it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import numpy as np

CONFIDENCE = 0.99  # that a percentile which is shown is not beyond the samples
COVERAGE = 0.95  # of the median's interval


@dataclass(frozen=True)
class Summary:
    """Some figures of n samples, in their unit; None for one that so few samples do not tell.

    sd: the standard deviation. p50 to p99: percentiles, those above the median from `needed` samples on. low, high: the
    median lies between them with a confidence of 95 %.
    """

    n: int
    min: float
    mean: float
    sd: float | None
    p50: float
    p90: float | None
    p95: float | None
    p99: float | None
    low: float | None
    high: float | None

    @property
    def uncertainty(self) -> float | None:
        """Half the width of the median's interval, as a share of the median."""
        if self.low is None or self.high is None or not self.p50:
            return None
        return (self.high - self.low) / 2 / self.p50


def summary(samples: Sequence[float]) -> Summary:
    """Returns the figures of at least one sample. Percentiles are interpolated, as NumPy does by default."""
    values = np.sort(np.asarray(samples, np.float64))
    n = len(values)
    p90, p95, p99 = (float(np.quantile(values, share)) if n >= needed(share) else None for share in (0.90, 0.95, 0.99))
    rank = median_rank(n)
    return Summary(
        n=n,
        min=float(values[0]),
        mean=float(values.mean()),
        sd=float(values.std(ddof=1)) if n > 1 else None,
        p50=float(np.quantile(values, 0.5)),
        p90=p90,
        p95=p95,
        p99=p99,
        low=float(values[rank]) if rank is not None else None,
        high=float(values[n - 1 - rank]) if rank is not None else None,
    )


@lru_cache
def needed(share: float) -> int:
    """The least number of samples of which, at 99 %, two or more lie above the percentile at `share`, 0.5 to 1.

    MLPerf's LoadGen asks for as many before it estimates a percentile (mlcommons/inference, loadgen/early_stopping.cc):
    64 for the 90th and 662 for the 99th.
    """
    too_few = ((n, share**n + n * (1 - share) * share ** (n - 1)) for n in count(2))
    return next(n for n, chance in too_few if chance <= 1 - CONFIDENCE)


def median_rank(n: int) -> int | None:
    """How many of n sorted samples to leave out at either end, so that the rest spans the median at 95 %.

    Whatever the distribution: the number of samples below its median is binomial. None for less than 6 samples, whose
    whole range does not span it with that confidence.
    """
    below, rank = 0.0, None
    for k in range(n // 2):
        below += math.comb(n, k) / 2**n
        if 2 * below > 1 - COVERAGE:
            break
        rank = k
    return rank
