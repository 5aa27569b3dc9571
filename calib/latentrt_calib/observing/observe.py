"""Observation of a graph: it runs over a recording, and statistics of its inner values are gathered by timestep.

Values are read in groups that fit in memory, with one pass over the recording per group. Statistics are saved at
intervals, so that a stopped run continues.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from onnxruntime import __version__ as onnxruntime_version

from latentrt.errors import EngineError
from latentrt.tensors import Array
from latentrt_calib.observing.observations import Observations, group_path, load_group, save_group
from latentrt_calib.observing.session import InstrumentedGraph, groups_within, instrumented, run_graph
from latentrt_calib.observing.statistics import ChannelStatistics, channel_axis
from latentrt_calib.recording.archive import is_whole
from latentrt_calib.recording.record import SHALLOW, Call, Progress, Recording
from latentrt_calib.recording.workspace import open_workspace

FORMAT = 1
SETTINGS, SCRATCH = "observations.json", ".weights"


@dataclass(frozen=True)
class ObservationSettings:
    """Settings of an observation. buckets: number of equal ranges of timesteps. group_bytes: float32 bytes per group.

    rows: sampled vectors over the channels to keep per value, unless the value has four axes. seed: for that sample.
    save_after_s: seconds between saves; a stop loses that much work and the current image.
    """

    buckets: int = 10
    group_bytes: int = 1 << 30
    rows: int = 512
    seed: int = 0
    save_after_s: float = 60.0


DEFAULT = ObservationSettings()


def observe(
    model: ir.Model | Path,
    values: Sequence[str],
    recording: Recording,
    folder: Path,
    settings: ObservationSettings = DEFAULT,
    progress: Progress = lambda line: None,
    shallow: ir.Model | None = None,
) -> Observations:
    """Returns observations of the named values of `model` over all calls of `recording`; results are kept in `folder`.

    model: a graph's file, which is only read, or a graph in memory with the same inputs. values: float inputs of the
    graph or outputs of its nodes. progress: called with one line when an image begins. shallow: the shallow form of a
    UNet, whose values have the same names; its calls are added to the statistics of those that it has. Raises
    OutputError for a folder with other results, EngineError if the graph cannot be run or a value is not finite,
    ValueError for a value that the graph does not have.
    """
    names = list(dict.fromkeys(values))
    try:
        source = instrumented(model, folder / SCRATCH / recording.component)
        sources = {recording.component: source}
        if shallow is not None:
            sources[SHALLOW] = instrumented(shallow, folder / SCRATCH / SHALLOW)
        if unknown := source.unknown(names):
            raise ValueError(f"values: the graph has no {', '.join(unknown)}")
        open_workspace(folder, SETTINGS, observation_settings(sources, names, recording, settings), scratch=SCRATCH)
        groups = groups_within(source.shapes(names, largest_feeds(recording)), settings.group_bytes)
        for number, group in enumerate(groups):
            title = f"observing {recording.component} part {number + 1} of {len(groups)}"
            ObservationPass(sources, group, recording, settings, group_path(folder, number)).finish(title, progress)
    finally:
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    return Observations(folder, tuple(map(tuple, groups)))


def observation_settings(
    sources: Mapping[str, InstrumentedGraph], values: Sequence[str], recording: Recording, settings: ObservationSettings
) -> dict[str, object]:
    """The settings that the observations depend on, as JSON."""
    decisive = {key: value for key, value in asdict(settings).items() if key != "save_after_s"}
    packages = {"latentrt": version("latentrt"), "onnxruntime": onnxruntime_version}
    keys = {recording.component: "model", SHALLOW: "shallow"}
    hashes = {keys[component]: source.sha256() for component, source in sources.items()}
    hashes["recording"] = recording.sha256
    return {"format": FORMAT, **packages, **hashes, "values": list(values), **decisive}


def bucket_of(timestep: float, train_steps: int, buckets: int) -> int:
    """Returns the index of the bucket of `timestep`, of `buckets` equal ranges from 0 to train_steps."""
    return min(int(timestep * buckets / train_steps), buckets - 1)


def largest_feeds(recording: Recording) -> Mapping[str, Array]:
    """The feeds of the first image's largest call."""
    return max((call.feeds for call in recording.calls(0)), key=lambda feeds: sum(feed.size for feed in feeds.values()))


def random_keys_of(*seeds: int) -> Callable[[int], NDArray[np.uint64]]:
    """Returns a source of random numbers that depend on `seeds` only, so that all groups and values sample alike."""

    @cache
    def random_keys(count: int) -> NDArray[np.uint64]:
        return np.asarray(np.random.PCG64(np.random.SeedSequence(seeds)).random_raw(count), np.uint64)

    return random_keys


@dataclass(frozen=True)
class ObservedGraph:
    """A session of a graph, the values that it gives, and the calls that it is observed over."""

    session: InferenceSession
    values: Sequence[str]
    recording: Recording


class ObservationPass:
    """One pass over a recording for a group of values, continued from the file at `path` if there is one.

    sources: graphs by the component whose calls they are observed over. The first has all values.
    """

    def __init__(
        self,
        sources: Mapping[str, InstrumentedGraph],
        values: Sequence[str],
        recording: Recording,
        settings: ObservationSettings,
        path: Path,
    ) -> None:
        self.sources, self.values, self.recording, self.settings, self.path = sources, values, recording, settings, path
        self.done, self.statistics = load_group(path, values, settings.rows) if is_whole(path) else (0, {})

    def finish(self, title: str, progress: Progress) -> None:
        """Runs the remaining images."""
        if self.done == self.recording.images:
            return
        graphs, saved = list(self._graphs()), time.monotonic()
        for image in range(self.done, self.recording.images):
            progress(f"{title}: image {image + 1} of {self.recording.images}")
            calls = ((graph, call) for graph in graphs for call in graph.recording.calls(image))
            for number, (graph, call) in enumerate(calls):
                self._add(graph, call, number)
            last = image + 1 == self.recording.images
            if last or time.monotonic() - saved >= self.settings.save_after_s:
                save_group(self.path, image + 1, self.values, self.statistics)
                saved = time.monotonic()

    def _graphs(self) -> Iterator[ObservedGraph]:
        """Yields every graph that has any of the values."""
        for component, source in self.sources.items():
            unknown = set(source.unknown(self.values))
            if values := [value for value in self.values if value not in unknown]:
                yield ObservedGraph(source.session(values), values, self.recording.of(component))

    def _add(self, graph: ObservedGraph, call: Call, number: int) -> None:
        """Adds a call; `number` is its index in the image."""
        settings = self.settings
        random_keys = random_keys_of(settings.seed, call.image, number)
        bucket = bucket_of(call.timestep, self.recording.settings.train_steps, settings.buckets)
        for value, found in run_graph(graph.session, graph.values, call.feeds).items():
            if value not in self.statistics:
                self.statistics[value] = ChannelStatistics(
                    settings.buckets, found.shape[channel_axis(found.ndim)], settings.rows
                )
            try:
                self.statistics[value].add(found, bucket, random_keys)
            except ValueError as error:
                raise EngineError(
                    f"{value}: got a value that is not finite in image {call.image + 1}, step {call.step + 1}; "
                    "calibrate a bundle exported with --precision fp32 or w16"
                ) from error
