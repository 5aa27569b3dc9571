"""Observations of a graph's inner values by range of timesteps, and their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentrt.tensors import Array
from latentrt_calib.observing.histogram import Histogram, merged
from latentrt_calib.observing.statistics import ChannelStatistics, statistics_from_arrays
from latentrt_calib.recording.archive import load_arrays, save_arrays

DONE = "images"


@dataclass(frozen=True)
class Observed:
    """Observations of one value. Buckets are ranges of timesteps; one without calls has an empty histogram and zeros.

    histograms: one per bucket, that of timestep 0 first. absmax: (buckets, channels) float32, largest magnitudes.
    means: (buckets, channels) float64. counts: (buckets,) int64, number of values per channel. rows: (n, channels)
    float32, a uniform sample of vectors over the channels from all calls; n is 0 for a value with four axes.
    """

    value: str
    histograms: tuple[Histogram, ...]
    absmax: NDArray[np.float32]
    means: NDArray[np.float64]
    counts: NDArray[np.int64]
    rows: NDArray[np.float32]

    @property
    def histogram(self) -> Histogram:
        """The histogram over all timesteps."""
        return merged(self.histograms)

    @property
    def channel_absmax(self) -> NDArray[np.float32]:
        """Largest magnitudes over all timesteps, (channels,)."""
        reach: NDArray[np.float32] = self.absmax.max(axis=0)
        return reach

    @property
    def channel_mean(self) -> NDArray[np.float64]:
        """Means over all timesteps, (channels,), each call weighted by its size."""
        mean: NDArray[np.float64] = self.counts @ self.means / max(self.counts.sum(), 1)
        return mean


@dataclass(frozen=True)
class Observations(Mapping[str, Observed]):
    """Observations by the value's name, read from disk on access."""

    folder: Path
    groups: tuple[tuple[str, ...], ...]

    def __getitem__(self, value: str) -> Observed:
        for number, group in enumerate(self.groups):
            if value in group:
                return self._read(number, group.index(value), value)
        raise KeyError(value)

    def __contains__(self, value: object) -> bool:  # unlike the inherited method, without reading
        return any(value in group for group in self.groups)

    def __iter__(self) -> Iterator[str]:
        return (value for group in self.groups for value in group)

    def __len__(self) -> int:
        return sum(map(len, self.groups))

    def _read(self, number: int, index: int, value: str) -> Observed:
        path, prefix = group_path(self.folder, number), prefix_of(index)
        arrays = whole_group(path, path.stat().st_mtime_ns)
        statistics = statistics_from_arrays(
            {name[len(prefix) :]: arrays[name] for name in arrays if name.startswith(prefix)}, limit=0
        )
        means = statistics.sums / np.maximum(statistics.counts, 1)[:, np.newaxis]
        return Observed(
            value, tuple(statistics.histograms), statistics.absmax, means, statistics.counts, statistics.rows
        )


def save_group(path: Path, done: int, group: Sequence[str], statistics: Mapping[str, ChannelStatistics]) -> None:
    """Writes the statistics of a group of values over the first `done` images; whole or not at all."""
    arrays: dict[str, Array] = {DONE: np.array([done])}
    for index, value in enumerate(group):
        arrays |= {prefix_of(index) + name: array for name, array in statistics[value].arrays().items()}
    save_arrays(path, arrays)


@lru_cache(maxsize=1)
def whole_group(path: Path, _changed: int) -> dict[str, Array]:
    """All arrays of a group; the last group is cached, as values are mostly read in the order of the groups."""
    return load_arrays(path)


def load_group(path: Path, group: Sequence[str], limit: int) -> tuple[int, dict[str, ChannelStatistics]]:
    """Returns the number of images done and the statistics that `save_group` wrote. limit: rows to keep per value."""
    statistics = {
        value: statistics_from_arrays(load_arrays(path, prefix_of(index)), limit) for index, value in enumerate(group)
    }
    return load_arrays(path, DONE)[""].item(), statistics


def prefix_of(index: int) -> str:
    """Prefix of the array names of the value at `index` in its group."""
    return f"{index:04d}."


def group_path(folder: Path, number: int) -> Path:
    """The file of a group."""
    return folder / f"group-{number:03d}.npz"
