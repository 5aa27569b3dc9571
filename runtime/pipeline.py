"""Text to image: a request goes in, a step comes out at a time, the result last."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from latentrt.bundle import MANIFEST, REMEDY, Bundle, open_bundle
from latentrt.engines import Engine, engine_kind, open_engine
from latentrt.errors import BundleError, EngineError, RequestError
from latentrt.guidance import guided
from latentrt.image import to_images
from latentrt.noise import randn
from latentrt.prediction import DENOISED
from latentrt.request import Request, Result, Settings, Step, settle
from latentrt.samplers import SAMPLERS
from latentrt.schedule import Grid
from latentrt.tensors import Array
from latentrt.tokenizer import Tokenizer

log = logging.getLogger(__name__)

MODELS = Path(__file__).parent / "models"
NEEDED = {"text_encoder", "cross_kv", "time_bias", "unet", "vae_decoder"}


def load(bundle: str | Path, *, engine: str = "cpu", verify: bool = True) -> Pipeline:
    """Returns a pipeline for a bundle's folder, or for a built-in model by name ("emoji").

    engine: what runs the graphs; its package must be installed. verify: hash every file first, so that damage is found
    before an engine reads it; graphs are read when first used, so leave the folder alone while the pipeline lives.
    Raises BundleError or EngineError.
    """
    engine_kind(engine)
    opened = open_bundle(folder_of(bundle), verify=verify)
    check_complete(opened)
    components = opened.manifest.components
    engines = {name: open_engine(engine, name, component, opened.folder) for name, component in components.items()}
    return Pipeline(opened, load_tokenizer(opened), engines, engine)


def folder_of(bundle: str | Path) -> Path:
    """The folder of a bundle given by its path or a built-in model's name. Raises BundleError if there is neither."""
    if isinstance(bundle, str) and bundle in built_in():
        return MODELS / bundle
    if not Path(bundle).exists():
        raise BundleError(
            f"{bundle}: got neither a folder nor the name of a built-in model ({', '.join(built_in())}); "
            "make a bundle with `latentrt export`"
        )
    return Path(bundle)


def check_complete(bundle: Bundle) -> None:
    """Raises BundleError unless the bundle can do text to image with the defaults that it states."""
    where = bundle.folder / MANIFEST
    missing = NEEDED - bundle.manifest.components.keys()
    if missing:
        raise BundleError(f"{where}: got no {', '.join(sorted(missing))}, which text to image needs; {REMEDY}")
    try:
        settle(Request(""), bundle.manifest)
    except RequestError as error:
        raise BundleError(f"{where}: its defaults cannot be run: {error}; {REMEDY}") from error


def built_in() -> list[str]:
    """The names of the models that ship with the package."""
    return sorted(path.name for path in MODELS.iterdir() if (path / "bundle.json").is_file())


def load_tokenizer(bundle: Bundle) -> Tokenizer:
    """The bundle's tokenizer."""
    spec = bundle.manifest.tokenizer
    return Tokenizer.load(bundle.path(spec.file), length=spec.length, bos=spec.bos, eos=spec.eos, pad=spec.pad)


class Pipeline:
    """A bundle's parts, put together. A context manager: leaving it frees what the engines hold."""

    def __init__(
        self, bundle: Bundle, tokenizer: Tokenizer, engines: Mapping[str, Engine], engine: str = "cpu"
    ) -> None:
        self.bundle, self.tokenizer, self.engines, self.engine = bundle, tokenizer, engines, engine

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees everything that the engines hold."""
        for engine in self.engines.values():
            engine.close()

    def generate(self, prompt: str, **options: Any) -> Result:
        """Returns the images for `prompt`; the options are those of `Request`.

        Raises RequestError for what cannot be generated, EngineError when an engine fails.
        """
        run = self.steps(Request(prompt, **options))
        for _ in run:
            pass
        return run.result

    def steps(self, request: Request) -> Run:
        """Returns a run to iterate over: each Step as it is done. Stop iterating to cancel; `run.result` comes last.

        Raises RequestError at once for what cannot be generated.
        """
        return Run(self, settle(request, self.bundle.manifest))

    def encode(self, prompts: list[str]) -> Array:
        """The packed cross-attention keys and values of each prompt, (prompts, tokens, K)."""
        for prompt in prompts:
            if (count := len(self.tokenizer.ids(prompt))) > self.tokenizer.length - 2:
                log.warning("the prompt has %d tokens; all after %d are ignored", count, self.tokenizer.length - 2)
        context = self.call("text_encoder", input_ids=self.tokenizer(prompts), clip_skip=np.array([1]))["context"]
        return self.call("cross_kv", context=context)["cross_kv"]

    def decode(self, latents: Array) -> Array:
        """Pixels in about [-1, 1], (batch, 3, height, width), from latents of unit variance; one image at a time."""
        scaled = latents / self.bundle.manifest.latents.scaling
        images = [self.call("vae_decoder", latents=scaled[i : i + 1])["image"] for i in range(len(scaled))]
        pixels = np.concatenate(images)
        if not np.isfinite(pixels).all():
            raise EngineError("vae_decoder: got pixels that are not finite; export with --precision fp32 or w16")
        return pixels

    def call(self, component: str, **feeds: Array) -> dict[str, Array]:
        """Runs one component on `feeds`, each brought to the float type that its graph declares."""
        dtypes = {spec.name: spec.dtype for spec in self.bundle.manifest.components[component].inputs}
        typed = {name: np.ascontiguousarray(feed, dtypes.get(name, feed.dtype)) for name, feed in feeds.items()}
        return self.engines[component](typed)


class Run:
    """One generation under way: an iterator of steps."""

    def __init__(self, pipeline: Pipeline, settings: Settings) -> None:
        self.settings = settings
        self._timings = Timings()
        self._result: Result | None = None
        self._steps = self._walk(pipeline)

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        return next(self._steps)

    @property
    def result(self) -> Result:
        """The images; only there once every step is done. Raises RuntimeError before that."""
        if self._result is None:
            raise RuntimeError("the run is not finished: iterate over it to the end first")
        return self._result

    def _walk(self, pipeline: Pipeline) -> Iterator[Step]:
        settings, manifest = self.settings, pipeline.bundle.manifest
        sampler = SAMPLERS[settings.sampler]
        grid = sampler.grid(manifest.schedule, settings.steps, settings.spacing, settings.sigmas)
        with self._timings.phase("text_encoder"):
            denoise = denoiser(pipeline, settings, grid)
        noise = initial_noise(settings, manifest.latents.channels, manifest.latents.pixels)
        walk = sampler.walk(denoise, (grid.start * noise).astype(np.float32), grid)
        latents = noise
        for index in range(settings.steps):
            with self._timings.phase("steps"):
                latents, denoised = next(walk)
            timestep, sigma = float(grid.timesteps[index]), float(grid.sigmas[index])
            yield Step(index, settings.steps, timestep, sigma, latents, denoised, manifest.latents.to_rgb)
        with self._timings.phase("vae_decoder"):
            images = to_images(pipeline.decode(latents))
        self._result = Result(
            images, settings, self._timings.seconds, pipeline.engine, manifest.name, pipeline.bundle.sha256
        )


@dataclass
class Timings:
    """Seconds by phase, added up."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time that the block takes to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass
class Denoiser:
    """The model as samplers see it: x and sigma in, clean latents out."""

    pipeline: Pipeline
    cross_kv: Array
    time_bias: Mapping[float, Array]
    guidance: float

    def __call__(self, x: Array, sigma: float) -> Array:
        """The clean latents that the model, guided, sees in `x`; same shape, float32."""
        rows = len(self.cross_kv)
        prediction = self.pipeline.call(
            "unet",
            sample=np.tile(x, (rows // len(x), 1, 1, 1)),
            time_bias=np.tile(self.time_bias[sigma], (rows, 1)),
            cross_kv=self.cross_kv,
        )["prediction"].astype(np.float32)
        if rows > len(x):
            prediction = guided(prediction, self.guidance)
        return DENOISED[self.pipeline.bundle.manifest.schedule.prediction](x, prediction, sigma)


def denoiser(pipeline: Pipeline, settings: Settings, grid: Grid) -> Denoiser:
    """The denoiser for one run: everything that depends on the prompt or the timestep alone is computed here, once."""
    prompts = [settings.negative, settings.prompt] if settings.guidance > 1 else [settings.prompt]
    cross_kv = np.repeat(pipeline.encode(prompts), len(settings.seeds), axis=0)
    bias = pipeline.call("time_bias", timestep=grid.timesteps)["time_bias"]
    return Denoiser(pipeline, cross_kv, dict(zip(grid.sigmas.tolist(), bias, strict=True)), settings.guidance)


def initial_noise(settings: Settings, channels: int, pixels: int) -> Array:
    """Unit-variance noise, (batch, channels, rows, columns): image k's is what torch's CPU generator draws for
    its own seed, so that it is the same alone and in a batch."""
    shape = (channels, settings.height // pixels, settings.width // pixels)
    return np.stack([randn(shape, seed) for seed in settings.seeds])
