"""Runs a graph over a recording and gathers what its inner values are like, by timestep.

Values are read in groups, each small enough to be in memory at once; a group is one pass over the recording. What a
pass has gathered is put on the disk again and again, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
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
from latentrt_calib.recording.record import Call, Progress, Recording
from latentrt_calib.recording.workspace import open_workspace

FORMAT = 1
SETTINGS, SCRATCH = "observations.json", ".weights"


@dataclass(frozen=True)
class ObservationSettings:
    """How to observe. buckets: equal parts of the timesteps. group_bytes: of values in memory at a time, in float32.

    rows: how many vectors over the channels to keep of each value that has not four axes. seed: for their choice.
    save_after_s: how much work, in seconds, a stop may lose beside the image under way.
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
) -> Observations:
    """Returns what the named values of `model` are over all calls of `recording`; the work is kept in `folder`.

    model: the file of a bundle, which is only read, or a graph in memory with the same inputs. values: inputs of the
    graph or outputs of its nodes, float. progress: called with a line for each image begun. Raises OutputError for a
    folder with other work, EngineError where the graph cannot be run or a value is not finite, ValueError for a value
    that the graph has not.
    """
    wanted = list(dict.fromkeys(values))
    try:
        source = instrumented(model, folder / SCRATCH)
        if unknown := source.unknown(wanted):
            raise ValueError(f"values: the graph has no {', '.join(unknown)}")
        open_workspace(folder, SETTINGS, observation_settings(source, wanted, recording, settings), scratch=SCRATCH)
        groups = groups_within(source.shapes(wanted, largest_feeds(recording)), settings.group_bytes)
        for number, group in enumerate(groups):
            title = f"observing {recording.component} part {number + 1} of {len(groups)}"
            ObservationPass(source, group, recording, settings, group_path(folder, number)).finish(title, progress)
    finally:
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    return Observations(folder, tuple(map(tuple, groups)))


def observation_settings(
    source: InstrumentedGraph, values: Sequence[str], recording: Recording, settings: ObservationSettings
) -> dict[str, object]:
    """What decides the observations; time that a stop may lose does not."""
    decisive = {key: value for key, value in asdict(settings).items() if key != "save_after_s"}
    packages = {"latentrt": version("latentrt"), "onnxruntime": onnxruntime_version}
    hashes = {"model": source.sha256(), "recording": recording.sha256}
    return {"format": FORMAT, **packages, **hashes, "values": list(values), **decisive}


def bucket_of(timestep: float, train_steps: int, buckets: int) -> int:
    """Returns which of `buckets` equal parts of the timesteps from 0 to train_steps holds `timestep`."""
    return min(int(timestep * buckets / train_steps), buckets - 1)


def largest_feeds(recording: Recording) -> Mapping[str, Array]:
    """The feeds of the first image's largest call."""
    return max((call.feeds for call in recording.calls(0)), key=lambda feeds: sum(feed.size for feed in feeds.values()))


def random_keys_of(*seeds: int) -> Callable[[int], NDArray[np.uint64]]:
    """Returns what gives random numbers: the same whenever it is asked, in whatever group and for whatever value."""

    @cache
    def random_keys(count: int) -> NDArray[np.uint64]:
        return np.asarray(np.random.PCG64(np.random.SeedSequence(seeds)).random_raw(count), np.uint64)

    return random_keys


class ObservationPass:
    """One pass over a recording for a group of values, taken up where the file at `path` says that it stopped."""

    def __init__(
        self,
        source: InstrumentedGraph,
        values: Sequence[str],
        recording: Recording,
        settings: ObservationSettings,
        path: Path,
    ) -> None:
        self.source, self.values, self.recording, self.settings, self.path = source, values, recording, settings, path
        self.done, self.statistics = load_group(path, values, settings.rows) if is_whole(path) else (0, {})

    def finish(self, title: str, progress: Progress) -> None:
        """Goes through the images that are left."""
        if self.done == self.recording.images:
            return
        session, saved = self.source.session(self.values), time.monotonic()
        for image in range(self.done, self.recording.images):
            progress(f"{title}: image {image + 1} of {self.recording.images}")
            for number, call in enumerate(self.recording.calls(image)):
                self._add(session, call, number)
            last = image + 1 == self.recording.images
            if last or time.monotonic() - saved >= self.settings.save_after_s:
                save_group(self.path, image + 1, self.values, self.statistics)
                saved = time.monotonic()

    def _add(self, session: InferenceSession, call: Call, number: int) -> None:
        """Takes in one call, which is the image's `number`-th."""
        settings = self.settings
        random_keys = random_keys_of(settings.seed, call.image, number)
        bucket = bucket_of(call.timestep, self.recording.settings.train_steps, settings.buckets)
        for value, found in run_graph(session, self.values, call.feeds).items():
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
