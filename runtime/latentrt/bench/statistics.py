"""Summary statistics of samples; a figure that needs more samples is None."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import numpy as np

CONFIDENCE = 0.99  # that two or more samples lie above a percentile
COVERAGE = 0.95  # of the median's interval


@dataclass(frozen=True)
class Summary:
    """Statistics of n samples, in their unit; None for a figure that needs more samples.

    sd: standard deviation. p50 to p99: percentiles; those above the median need `samples_needed` samples. low, high:
    95 % interval of the median.
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
        """Half the width of the median's interval, relative to the median; None if unknown."""
        if self.low is None or self.high is None or not self.p50:
            return None
        return (self.high - self.low) / 2 / self.p50


def summary(samples: Sequence[float]) -> Summary:
    """Returns the statistics of one sample or more. Percentiles are interpolated as by NumPy's default."""
    values = np.sort(np.asarray(samples, np.float64))
    n = len(values)
    p90, p95, p99 = (
        float(np.quantile(values, share)) if n >= samples_needed(share) else None for share in (0.90, 0.95, 0.99)
    )
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
def samples_needed(share: float) -> int:
    """The least number of samples of which two or more lie above a percentile with 99 % confidence.

    share: the percentile as a fraction, 0.5 to 1. MLPerf's LoadGen requires the same numbers, 64 for the 90th and 662
    for the 99th (mlcommons/inference, loadgen/early_stopping.cc).
    """
    too_few = ((n, share**n + n * (1 - share) * share ** (n - 1)) for n in count(2))
    return next(n for n, chance in too_few if chance <= 1 - CONFIDENCE)


def median_rank(n: int) -> int | None:
    """The number of n sorted samples to leave out at each end so that the rest spans the median with 95 % confidence.

    For any distribution, since the number of samples below its median is binomial. None for fewer than 6 samples: even
    their whole range does not reach that confidence.
    """
    below, rank = 0.0, None
    for k in range(n // 2):
        below += math.comb(n, k) / 2**n
        if 2 * below > 1 - COVERAGE:
            break
        rank = k
    return rank
