"""Recording of runs on calibration subjects: the inputs of every call of text encoders, denoiser and VAE decoder.

Where a bundle has a shallow UNet, every image is drawn a second time with a step cache, and the calls of the shallow
UNet are recorded, with the features that an earlier call left. Arrays that calls share are stored once per image:
cross-attention's keys and values, and the time bias of a timestep that a sampler visits again. Images that are stored
are not run again, and the same settings give the same bytes.
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

from latentrt.engines import Engine
from latentrt.engines.wrapped import Wrapped
from latentrt.errors import OutputError, RequestError
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.request import Request
from latentrt.request.settings import resolve
from latentrt.storage.json_codec import TypedError, parse
from latentrt.tensors import Array
from latentrt_calib.recording.archive import is_whole, load_arrays, save_arrays
from latentrt_calib.recording.cached import cached
from latentrt_calib.recording.requests import check_requests, requests_for
from latentrt_calib.recording.subjects import subject_text
from latentrt_calib.recording.workspace import open_workspace

FORMAT = 3
SETTINGS = "recording.json"
UNET, SHALLOW, DECODER, TIME_BIAS = "unet", "unet_shallow", "vae_decoder", "time_bias"
# Arrays of a component in an image's file: names of its inputs, and per call its step, timestep and input arrays.
COLUMNS = ("names", "steps", "timesteps", "calls")

Progress = Callable[[str], None]
OnCall = Callable[[Mapping[str, Array], Mapping[str, Array]], None]


@dataclass(frozen=True)
class RecordingSettings:
    """Settings that the recording depends on.

    bundle: SHA-256 of its manifest. prompts: the subject of each image; image k has the seed seed0 + k. train_steps:
    number of the model's timesteps. inits: SHA-256 of the pictures that the model is shown, one per image, if any.
    """

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
    inits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    """One call of a component. image, step: from 0; some samplers call more than once per step. steps: of the run.

    timestep: on the model's scale, 0 to train_steps. feeds: every input of the engine by name. Text encoders are called
    before the first step, the VAE decoder after the last, both at timestep 0.
    """

    image: int
    step: int
    steps: int
    timestep: float
    feeds: Mapping[str, Array] = field(repr=False)


@dataclass(frozen=True)
class Recording:
    """A folder with one file per image. Iterating gives every Call in order, one image in memory at a time.

    component: a denoiser or a text encoder, SHALLOW or DECODER, whose calls are given; the folder holds all.
    """

    folder: Path
    settings: RecordingSettings
    component: str = UNET

    def __iter__(self) -> Iterator[Call]:
        for image in range(self.images):
            yield from self.calls(image)

    @property
    def images(self) -> int:
        """The number of images."""
        return len(self.settings.prompts)

    @property
    def sha256(self) -> str:
        """The hash of the settings, which the content depends on."""
        return hashlib.sha256(json.dumps(asdict(self.settings)).encode()).hexdigest()

    def of(self, component: str) -> Recording:
        """The same recording for another component's calls."""
        return replace(self, component=component)

    def calls(self, image: int) -> Iterator[Call]:
        """Yields the calls of one image in order; none of a component that was not called.

        Raises OutputError if its file is missing or damaged.
        """
        path = image_path(self.folder, image)
        try:
            arrays = load_arrays(path)
        except (OSError, ValueError) as error:
            raise OutputError(f"{path}: missing or damaged ({error}); run the same command again") from error
        if f"{self.component}.{COLUMNS[0]}" not in arrays:
            return
        names, *columns = (arrays[f"{self.component}.{column}"].tolist() for column in COLUMNS)
        for step, timestep, numbers in zip(*columns, strict=True):
            feeds = {name: arrays[array_name(number)] for name, number in zip(names, numbers, strict=True)}
            yield Call(image, step, self.settings.steps, timestep, feeds)


def record(
    pipeline: Pipeline,
    prompts: Sequence[str],
    *,
    inits: Sequence[str] = (),
    steps: int | None = None,
    sampler: str | None = None,
    seed0: int = 0,
    folder: Path,
    progress: Progress = lambda line: None,
) -> Recording:
    """Returns the recording in `folder` of one run of `pipeline` per prompt, with seeds seed0, seed0 + 1, ...

    prompts: or other subjects, as `subjects_of` gives them. inits: files of pictures for a model that is shown one;
    without, they are drawn. steps, sampler: None for the bundle's defaults; guidance and size are always the bundle's.
    Images already in the folder are kept. progress: called with one line when an image begins. Raises RequestError for
    prompts that cannot be generated, before any run; OutputError for a folder with another recording; EngineError if an
    engine fails.
    """
    if not prompts:
        raise RequestError("prompts: got none, expected at least one")
    requests = requests_for(pipeline.bundle.manifest, prompts, seed0, inits, steps=steps, sampler=sampler)
    check_requests(pipeline, requests)
    recording = Recording(folder, recording_settings(pipeline, requests))
    open_workspace(folder, SETTINGS, asdict(recording.settings))
    for image, request in enumerate(requests):
        path = image_path(folder, image)
        if not is_whole(path):
            subject = recording.settings.prompts[image] or "no subject"
            progress(f"recording image {image + 1} of {len(requests)}: {subject}")
            save_arrays(path, recorded_run(pipeline, request))
    return recording


def open_recording(folder: Path) -> Recording:
    """Returns the recording in `folder`. Raises OutputError if there is none, or one of another version."""
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
    """The settings of a recording of `requests`, which differ in subjects, seeds and pictures only."""
    manifest = pipeline.bundle.manifest
    resolved = [resolve(request, manifest) for request in requests]
    settings, shown = resolved[0], [one.init_image.record()["init"] for one in resolved if one.init_image]
    return RecordingSettings(
        format=FORMAT,
        latentrt=version("latentrt"),
        bundle=pipeline.bundle.sha256,
        engine=pipeline.engine,
        split_guidance=pipeline.split_guidance,
        prompts=tuple(map(subject_text, resolved)),
        seed0=settings.seeds[0],
        sampler=settings.schedule.sampler,
        steps=settings.steps,
        train_steps=manifest.noise_schedule.train_steps,
        inits=tuple(str(image["sha256"]) for image in shown),
    )


def recorded_run(pipeline: Pipeline, request: Request) -> dict[str, Array]:
    """The arrays of an image's file, from one run without the last decoding, and one with a step cache if there is one.

    Of the second run, only the shallow UNet's calls are recorded.
    """
    manifest = pipeline.bundle.manifest
    inputs = {spec.name: spec for name in (manifest.denoiser, DECODER) for spec in manifest.components[name].inputs}
    recorder = FeedRecorder(inputs[TIME_BIAS].dtype)
    handlers = {name: recorder.untimed(name) for name in manifest.text_encoders}
    handlers[manifest.denoiser] = recorder.denoiser(manifest.denoiser)
    last = recorded_steps(pipeline, request, recorder, handlers)
    latents = pipeline.quantized(manifest.latents.for_vae(last))  # as in Components.decode
    recorder.call(DECODER, 0.0, {"latents": np.ascontiguousarray(latents, inputs["latents"].dtype)})
    if (second := cached(request, manifest)) is not None and manifest.shallow is not None:
        recorded_steps(pipeline, second, recorder, {manifest.shallow: recorder.denoiser(SHALLOW)})
    return recorder.arrays()


def recorded_steps(
    pipeline: Pipeline, request: Request, recorder: FeedRecorder, components: Mapping[str, OnCall]
) -> Array:
    """The latents after the last step of a run, whose calls of these components are recorded."""
    handlers = {TIME_BIAS: recorder.time_bias, **components}
    instrumented = pipeline.with_engines(
        {name: RecordingEngine(pipeline.engines[name], on_call) for name, on_call in handlers.items()}
    )
    recorder.step, steps = 0, instrumented.steps(request)
    for step in islice(steps, steps.settings.steps):
        recorder.step = step.index + 1
    return step.latents


class RecordingEngine(Wrapped):
    """Wraps an engine and passes the inputs and outputs of every call to `on_call`."""

    def __init__(self, engine: Engine, on_call: OnCall) -> None:
        super().__init__(engine)
        self.on_call = on_call

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the outputs of the wrapped engine."""
        outputs = super().__call__(feeds)
        self.on_call(feeds, outputs)
        return outputs


class FeedRecorder:
    """Records the feeds of an image's runs. dtype: of the denoiser's time bias. step: the current step of the run."""

    def __init__(self, dtype: str) -> None:
        self.dtype, self.step = dtype, 0
        self._timesteps: dict[bytes, float] = {}
        self._numbers: dict[tuple[str, tuple[int, ...], bytes], int] = {}
        self._arrays: list[Array] = []
        self._calls: dict[str, list[tuple[int, float, dict[str, int]]]] = {}

    def time_bias(self, feeds: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Records the timestep of each row of the time bias."""
        for timestep, row in zip(feeds["timestep"], outputs[TIME_BIAS], strict=True):
            self._timesteps[row.astype(self.dtype).tobytes()] = float(timestep)

    def denoiser(self, component: str) -> OnCall:
        """Returns a function that records a call of the denoiser, or of the shallow one."""

        def on_call(feeds: Mapping[str, Array], _outputs: Mapping[str, Array]) -> None:
            self.call(component, self._timesteps[feeds[TIME_BIAS][0].tobytes()], feeds)

        return on_call

    def untimed(self, component: str) -> OnCall:
        """Returns a function that records a call of a component outside the steps."""
        return lambda feeds, _outputs: self.call(component, 0.0, feeds)

    def call(self, component: str, timestep: float, feeds: Mapping[str, Array]) -> None:
        """Records a call's feeds; equal arrays are stored once."""
        numbers = {name: self._stored(feed) for name, feed in feeds.items()}
        self._calls.setdefault(component, []).append((self.step, timestep, numbers))

    def _stored(self, array: Array) -> int:
        """Stores the array unless an equal one is stored already; returns its number."""
        key = (array.dtype.str, array.shape, hashlib.sha256(array.data).digest())
        if key not in self._numbers:
            self._numbers[key] = len(self._arrays)
            self._arrays.append(array.copy())
        return self._numbers[key]

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
                np.array([[numbers[name] for name in names] for numbers in feeds], np.int64),
            )
            arrays |= {f"{component}.{column}": array for column, array in zip(COLUMNS, columns, strict=True)}
        return arrays | {array_name(number): array for number, array in enumerate(self._arrays)}


def image_path(folder: Path, image: int) -> Path:
    """The file of an image."""
    return folder / f"image-{image:04d}.npz"


def array_name(number: int) -> str:
    """The name of an array in an image's file."""
    return f"array_{number:04d}"
