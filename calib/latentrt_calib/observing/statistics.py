"""Statistics of one value over all calls, in memory that does not grow with the number of calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from latentrt.tensors import Array
from latentrt_calib.observing.histogram import BINS, Histogram


def channel_axis(dimensions: int) -> int:
    """The axis of the channels: 1 of (batch, channels, height, width), else the last."""
    return 1 if dimensions == 4 else dimensions - 1


class ChannelStatistics:
    """Statistics of one value per bucket of timesteps, and a sample of its rows over all buckets.

    histograms: one per bucket. absmax, sums: (buckets, channels) float32 and float64. counts: (buckets,) int64, values
    per channel. rows: (at most limit, channels) float32, vectors over the channels, a uniform sample without
    replacement of all rows; none for a value with four axes. keys: (rows,) uint64, random keys of the sampled rows: the
    lowest of all rows' keys.
    """

    def __init__(self, buckets: int, channels: int, limit: int) -> None:
        self.limit = limit
        self.histograms = [Histogram() for _ in range(buckets)]
        self.absmax: NDArray[np.float32] = np.zeros((buckets, channels), np.float32)
        self.sums: NDArray[np.float64] = np.zeros((buckets, channels), np.float64)
        self.counts: NDArray[np.int64] = np.zeros(buckets, np.int64)
        self.keys: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self.rows: NDArray[np.float32] = np.zeros((0, channels), np.float32)

    def add(self, values: Array, bucket: int, random_keys: Callable[[int], NDArray[np.uint64]]) -> None:
        """Adds the value of one call. Raises ValueError, and adds nothing, if it is not finite.

        random_keys: a function that returns a given number of random numbers for this call, always the same.
        """
        values = np.ascontiguousarray(values, np.float32)
        channels = channel_axis(values.ndim)
        # One long axis of pixels is reduced faster than two short ones.
        flattened = values.reshape(*values.shape[: channels + 1], -1) if values.ndim == 4 else values
        others = tuple(axis for axis in range(flattened.ndim) if axis != channels)
        low, high = flattened.min(others), flattened.max(others)
        self.histograms[bucket].add(values, (float(low.min()), float(high.max())))
        np.maximum(self.absmax[bucket], np.maximum(high, -low), out=self.absmax[bucket])
        self.sums[bucket] += flattened.sum(others, dtype=np.float64)
        self.counts[bucket] += values.size // values.shape[channels]
        if values.ndim != 4:
            rows = values.reshape(-1, values.shape[-1])
            self._sample(rows, random_keys(len(rows)))

    def _sample(self, rows: NDArray[np.float32], keys: NDArray[np.uint64]) -> None:
        """Keeps the rows with the smallest keys: a uniform sample, independent of the order of calls."""
        if room := self.limit - len(self.keys):
            self.keys = np.concatenate([self.keys, keys[:room]])
            self.rows = np.concatenate([self.rows, rows[:room]])
            keys, rows = keys[room:], rows[room:]
        low = np.flatnonzero(keys < self.keys.max(initial=0))
        if low.size:
            order = np.argsort(np.concatenate([self.keys, keys[low]]), kind="stable")
            out, into = np.sort(order[self.limit :]), np.sort(order[: self.limit])
            free, new = out[out < self.limit], low[into[into >= self.limit] - self.limit]
            self.keys[free], self.rows[free] = keys[new], rows[new]

    def arrays(self) -> dict[str, Array]:
        """All statistics as arrays by name, the sample in the order of its keys."""
        order = np.argsort(self.keys, kind="stable")
        return {
            "bins": np.array([histogram.counts for histogram in self.histograms]),
            "exponents": np.array([histogram.exponent for histogram in self.histograms], np.int64),
            "extremes": np.array([(histogram.low, histogram.high) for histogram in self.histograms]),
            "absmax": self.absmax,
            "sums": self.sums,
            "counts": self.counts,
            "keys": self.keys[order],
            "rows": self.rows[order],
        }


def statistics_from_arrays(arrays: Mapping[str, Array], limit: int) -> ChannelStatistics:
    """Returns the statistics from their `arrays()`."""
    statistics = ChannelStatistics(len(arrays["bins"]), arrays["absmax"].shape[1], limit)
    parts = zip(statistics.histograms, arrays["bins"], arrays["exponents"], arrays["extremes"], strict=True)
    for histogram, bins, exponent, (low, high) in parts:
        histogram.counts, histogram.exponent = bins.reshape(BINS), int(exponent)
        histogram.low, histogram.high = float(low), float(high)
    statistics.absmax, statistics.sums, statistics.counts = arrays["absmax"], arrays["sums"], arrays["counts"]
    statistics.keys, statistics.rows = arrays["keys"], arrays["rows"]
    return statistics
