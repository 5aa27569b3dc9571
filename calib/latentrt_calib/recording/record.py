"""Runs the runtime on calibration prompts and keeps everything that the UNet is fed, call by call, and the VAE decoder.

What calls share is stored once an image: cross-attention's keys and values, the time bias where a sampler comes back
to a timestep. An image that is stored is not run again, and the same settings give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np

from latentrt.engines import Engine, MemoryModel
from latentrt.errors import OutputError, RequestError
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.request import Request
from latentrt.request.settings import resolve
from latentrt.storage.json_codec import TypedError, parse
from latentrt.tensors import Array
from latentrt_calib.recording.archive import is_whole, load_arrays, save_arrays
from latentrt_calib.recording.requests import check_requests
from latentrt_calib.recording.workspace import open_workspace

FORMAT = 2
SETTINGS = "recording.json"
UNET, DECODER = "unet", "vae_decoder"
# Of a component's calls, in an image's file: the inputs, and for each call its step, timestep and the inputs' arrays.
COLUMNS = ("names", "steps", "timesteps", "calls")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class RecordingSettings:
    """All that decides what is recorded. bundle: its manifest's SHA-256. prompts: one an image, whose seed is seed0
    and its place. train_steps: the model's timesteps are below it."""

    format: int
    latentrt: str
    bundle: str
    engine: str
    split_guidance: bool
    prompts: tuple[str, ...]
    seed0: int
    sampler: str
    steps: int
    train_steps: int


@dataclass(frozen=True)
class Call:
    """One call of a component. image, step: from 0; some samplers call more than once a step. steps: of the run.

    timestep: on the model's scale, 0 to train_steps. feeds: every input by name, as the engine took it. The VAE decoder
    is called after the last step, at timestep 0.
    """

    image: int
    step: int
    steps: int
    timestep: float
    feeds: Mapping[str, Array] = field(repr=False)


@dataclass(frozen=True)
class Recording:
    """A folder with one file an image. Iterating gives every Call in order, one image in memory at a time.

    component: whose calls it gives, UNET or DECODER; the folder has those of both.
    """

    folder: Path
    settings: RecordingSettings
    component: str = UNET

    def __iter__(self) -> Iterator[Call]:
        for image in range(self.images):
            yield from self.calls(image)

    @property
    def images(self) -> int:
        """How many images were recorded."""
        return len(self.settings.prompts)

    @property
    def sha256(self) -> str:
        """The hash of the settings, and so of what they give."""
        return hashlib.sha256(json.dumps(asdict(self.settings)).encode()).hexdigest()

    def of(self, component: str) -> Recording:
        """The same recording, to give another component's calls."""
        return replace(self, component=component)

    def calls(self, image: int) -> Iterator[Call]:
        """Yields the calls of one image in order. Raises OutputError where its file is missing or damaged."""
        path = image_path(self.folder, image)
        try:
            arrays = load_arrays(path)
        except (OSError, ValueError) as error:
            raise OutputError(f"{path}: missing or damaged ({error}); run the same command again") from error
        names, *columns = (arrays[f"{self.component}.{column}"].tolist() for column in COLUMNS)
        for step, timestep, places in zip(*columns, strict=True):
            feeds = {name: arrays[array_name(place)] for name, place in zip(names, places, strict=True)}
            yield Call(image, step, self.settings.steps, timestep, feeds)


def record(
    pipeline: Pipeline,
    prompts: Sequence[str],
    *,
    steps: int | None = None,
    sampler: str | None = None,
    seed0: int = 0,
    folder: Path,
    progress: Progress = lambda line: None,
) -> Recording:
    """Returns the recording in `folder` of one run of `pipeline` for each prompt, with seeds seed0, seed0 + 1, ...

    steps, sampler: the bundle's where none is given; guidance and size always are. Images that the folder holds already
    are kept. progress: called with a line for each image begun. Raises RequestError for what cannot be generated,
    before anything is run; OutputError for a folder with another recording; EngineError when an engine fails.
    """
    if not prompts:
        raise RequestError("prompts: got none, expected at least one")
    requests = [Request(text, steps=steps, sampler=sampler, seed=seed0 + i) for i, text in enumerate(prompts)]
    check_requests(pipeline, requests)
    recording = Recording(folder, recording_settings(pipeline, requests))
    open_workspace(folder, SETTINGS, asdict(recording.settings))
    for image, request in enumerate(requests):
        path = image_path(folder, image)
        if not is_whole(path):
            progress(f"recording image {image + 1} of {len(requests)}: {request.prompt}")
            save_arrays(path, recorded_run(pipeline, request))
    return recording


def open_recording(folder: Path) -> Recording:
    """Returns the recording in `folder`. Raises OutputError where there is none, or one of another version."""
    path = folder / SETTINGS
    try:
        settings = parse(RecordingSettings, json.loads(path.read_text(encoding="utf-8")))
        if settings.format != FORMAT:
            raise TypedError(f".format: got {settings.format}, expected {FORMAT}")
        return Recording(folder, settings)
    except (OSError, ValueError) as error:
        reason = str(error) if isinstance(error, TypedError) else "missing or damaged"
        raise OutputError(f"{path}: {reason}; expected a recording; make one with `latentrt calibrate`") from error


def recording_settings(pipeline: Pipeline, requests: Sequence[Request]) -> RecordingSettings:
    """What decides the recording of `requests`, whose first stands for all but the prompts and seeds."""
    manifest = pipeline.bundle.manifest
    settled = resolve(requests[0], manifest)
    return RecordingSettings(
        format=FORMAT,
        latentrt=version("latentrt"),
        bundle=pipeline.bundle.sha256,
        engine=pipeline.engine,
        split_guidance=pipeline.split_guidance,
        prompts=tuple(request.prompt for request in requests),
        seed0=settled.seeds[0],
        sampler=settled.schedule.sampler,
        steps=settled.steps,
        train_steps=manifest.schedule.train_steps,
    )


def recorded_run(pipeline: Pipeline, request: Request) -> dict[str, Array]:
    """The arrays of an image's file, from one run up to its last latents: they are not decoded."""
    manifest = pipeline.bundle.manifest
    inputs = {spec.name: spec for name in (UNET, DECODER) for spec in manifest.components[name].inputs}
    recorder = FeedRecorder(inputs["time_bias"].dtype)
    taps = {"time_bias": recorder.time_bias, UNET: recorder.unet}
    instrumented = pipeline.with_engines(
        {name: RecordingEngine(pipeline.engines[name], on_call) for name, on_call in taps.items()}
    )
    steps = instrumented.steps(request)
    for step in islice(steps, steps.settings.steps):
        recorder.step = step.index + 1
    latents = step.latents / manifest.latents.scaling  # as Pipeline.decode has it
    recorder.call(DECODER, 0.0, {"latents": latents.astype(inputs["latents"].dtype, copy=False)})
    return recorder.arrays()


class RecordingEngine:
    """An engine that shows to `note` what goes into another and what comes out."""

    def __init__(self, engine: Engine, on_call: Callable[[Mapping[str, Array], Mapping[str, Array]], None]) -> None:
        self.engine, self.on_call = engine, on_call

    @property
    def memory(self) -> MemoryModel | None:
        """The other engine's memory model."""
        return self.engine.memory

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """What the other engine returns."""
        outputs = self.engine(feeds)
        self.on_call(feeds, outputs)
        return outputs

    def load(self) -> None:
        """Loads the other engine."""
        self.engine.load()

    def unload(self) -> None:
        """Unloads the other engine."""
        self.engine.unload()

    def close(self) -> None:
        """Closes the other engine."""
        self.engine.close()


class FeedRecorder:
    """What is seen of one run. dtype: of the UNet's time bias. step: the one that the run is in."""

    def __init__(self, dtype: str) -> None:
        self.dtype, self.step = dtype, 0
        self._timesteps: dict[bytes, float] = {}
        self._places: dict[tuple[str, tuple[int, ...], bytes], int] = {}
        self._arrays: list[Array] = []
        self._calls: dict[str, list[tuple[int, float, dict[str, int]]]] = {}

    def time_bias(self, feeds: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Notes which timestep each row of the time bias stands for."""
        for timestep, row in zip(feeds["timestep"], outputs["time_bias"], strict=True):
            self._timesteps[row.astype(self.dtype).tobytes()] = float(timestep)

    def unet(self, feeds: Mapping[str, Array], _outputs: Mapping[str, Array]) -> None:
        """Notes a call of the UNet."""
        self.call(UNET, self._timesteps[feeds["time_bias"][0].tobytes()], feeds)

    def call(self, component: str, timestep: float, feeds: Mapping[str, Array]) -> None:
        """Notes what a call was fed, each array that was not there before."""
        places = {name: self._place(feed) for name, feed in feeds.items()}
        self._calls.setdefault(component, []).append((self.step, timestep, places))

    def _place(self, array: Array) -> int:
        """The number under which the array is kept."""
        key = (array.dtype.str, array.shape, hashlib.sha256(array.data).digest())
        if key not in self._places:
            self._places[key] = len(self._arrays)
            self._arrays.append(array.copy())
        return self._places[key]

    def arrays(self) -> dict[str, Array]:
        """The arrays of the image's file."""
        arrays: dict[str, Array] = {}
        for component, calls in self._calls.items():
            steps, timesteps, feeds = zip(*calls, strict=True)
            names = list(feeds[0])
            columns = (
                np.array(names),
                np.array(steps, np.int64),
                np.array(timesteps, np.float64),
                np.array([[places[name] for name in names] for places in feeds], np.int64),
            )
            arrays |= {f"{component}.{column}": array for column, array in zip(COLUMNS, columns, strict=True)}
        return arrays | {array_name(place): array for place, array in enumerate(self._arrays)}


def image_path(folder: Path, image: int) -> Path:
    """The file of an image."""
    return folder / f"image-{image:04d}.npz"


def array_name(place: int) -> str:
    """The name under which a file has its array of that number."""
    return f"array_{place:04d}"
