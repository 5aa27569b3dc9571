"""Text to image, and image to image: a request goes in, a step comes out at a time, the result last."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.blending import blended, check_blend
from latentrt.bundle import MANIFEST, REMEDY, Bundle, open_bundle
from latentrt.conditioning import Conditioning, encode, nothing
from latentrt.denoiser import Denoiser, timesteps_of_calls
from latentrt.draws import Draws
from latentrt.embedding import added, time_bias
from latentrt.engines import Engine, choose, engine_kind, open_changed, open_engines
from latentrt.errors import BundleError, EngineError, OutOfMemoryError, RequestError
from latentrt.guidance import Guidance
from latentrt.hires import Grown, bilinear
from latentrt.image import resized, to_images, to_pixels, to_shares
from latentrt.inpainting import painted
from latentrt.memory import Budget, demand_of, footprints_of, smaller
from latentrt.prediction import PREDICTIONS
from latentrt.prompt import Prompt, read
from latentrt.request import Request
from latentrt.result import Result, Step
from latentrt.samplers import SAMPLERS
from latentrt.samplers.walk import Denoise, Walk
from latentrt.settings import Settings, settle
from latentrt.shown import shown_of
from latentrt.source import drawn, restore, started
from latentrt.steering import Steering
from latentrt.tasks import FROM_AN_IMAGE, TEXT_TO_IMAGE, TINY_DECODER
from latentrt.tensors import Array
from latentrt.timings import Timings
from latentrt.tokenizer import Tokenizer
from latentrt.windows import decoded, laid, windowed

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentrt.lora.weights import Applied

log = logging.getLogger(__name__)

MODELS = Path(__file__).parent / "models"


def load(
    bundle: str | Path,
    *,
    engine: str = "cpu",
    verify: bool = True,
    split_guidance: bool = False,
    memory_budget: int | None = None,
) -> Pipeline:
    """Returns a pipeline for a bundle's folder, or for a built-in model by name ("emoji").

    engine: what runs the graphs; its package must be installed. "cpu" is the fastest of those for a CPU: measured when
    a model is first loaded with several of them installed. verify: hash every file first, so that damage is found
    before an engine reads it; graphs are read when first used, so leave the folder alone while the pipeline lives.
    split_guidance: call the UNet once for each prompt of a step, not once for all, which takes less memory and longer.
    memory_budget: the bytes that the whole process may need, on a CPU; runs are made to fit, or refused before they
    start. Raises BundleError or EngineError.
    """
    engine_kind(engine)
    opened = open_bundle(folder_of(bundle), verify=verify)
    check_complete(opened)
    frugal = memory_budget is not None
    engine = choose(engine, opened, frugal=frugal)
    engines = open_engines(engine, opened, frugal=frugal)
    budget = None if memory_budget is None else Budget(memory_budget, footprints_of(engine, engines))
    return Pipeline(opened, load_tokenizer(opened), engines, engine, split_guidance=split_guidance, budget=budget)


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
    needed = FROM_AN_IMAGE if bundle.manifest.shown else TEXT_TO_IMAGE
    missing = {*needed, *bundle.manifest.text.encoders} - bundle.manifest.components.keys()
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
    return Tokenizer.load(
        bundle.path(spec.file), length=spec.length, bos=spec.bos, eos=spec.eos, pad=spec.pad, embeddings=spec.embeddings
    )


class Pipeline:
    """A bundle's parts, put together. A context manager: leaving it frees what the engines hold."""

    def __init__(
        self,
        bundle: Bundle,
        tokenizer: Tokenizer,
        engines: Mapping[str, Engine],
        engine: str = "cpu",
        *,
        split_guidance: bool = False,
        budget: Budget | None = None,
    ) -> None:
        self.bundle, self.tokenizer, self.engines, self.engine = bundle, tokenizer, engines, engine
        self.split_guidance, self.budget = split_guidance, budget
        self.unchanged = engines
        self.loras: tuple[Applied, ...] = ()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def with_engines(self, engines: Mapping[str, Engine]) -> Pipeline:
        """Returns the same pipeline with other engines for these components; the others are shared."""
        other = copy(self)
        other.engines, other.unchanged = {**self.engines, **engines}, {**self.unchanged, **engines}
        return other

    def with_loras(self, loras: Mapping[str | Path, float]) -> Pipeline:
        """Returns the pipeline with these LoRA files, and no others, added to its weights; this one stays as it is.

        loras: the scale of each file, such as {"style.safetensors": 0.8}. Components that none of them changes are
        shared; the others are loaded anew when first called, from the canonical graph. Where memory is short, `unload`
        what has run before. Raises CheckpointError for a file that cannot be read or does not fit the bundle,
        EngineError for an engine or a bundle that cannot take any.

        >>> pipe.with_loras({"style.safetensors": 0.8}).generate("a red apple")  # doctest: +SKIP
        """
        from latentrt.lora.weights import applied, changed_weights, loras_of  # 20 ms that other runs are spared

        chosen, other = loras_of(loras), copy(self)
        weights = changed_weights(self.bundle, chosen) if chosen else {}
        changed = open_changed(self.engine, self.bundle, weights, frugal=self.budget is not None) if chosen else {}
        other.engines, other.loras = {**self.unchanged, **changed}, applied(chosen)
        if self.budget is not None:
            other.budget = replace(self.budget, footprints=footprints_of(self.engine, other.engines))
        return other

    def unload(self) -> None:
        """Frees what the engines hold; each component loads again when it is called."""
        for engine in self.engines.values():
            engine.unload()

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
        kind = Run if request.hires is None else TwoPasses
        return kind(self, settle(request, self.bundle.manifest))

    def decode(self, latents: Array, decoder: str = "vae_decoder") -> Array:
        """Pixels in about [-1, 1], (batch, 3, height, width), from latents of unit variance; one image at a time.

        decoder: the component, "vae_decoder" or "tiny_decoder".
        """
        feeds: list[dict[str, Array]] = [{"sample": latents[i : i + 1]} for i in range(len(latents))]
        if decoder != TINY_DECODER:
            scaling = self.bundle.manifest.latents.scaling
            feeds = [{"latents": one["sample"] / scaling} for one in feeds]
        pixels = np.concatenate([self._decoded(decoder, one) for one in feeds])
        if not np.isfinite(pixels).all():
            raise EngineError(f"{decoder}: got pixels that are not finite; export with --precision fp32 or w16")
        return pixels

    def _decoded(self, decoder: str, feeds: Mapping[str, Array]) -> Array:
        """The pixels of one image; with the other components out of memory, if it does not fit beside them."""
        try:
            return self.call(decoder, **feeds)["image"]
        except OutOfMemoryError:
            log.warning("too little memory to decode: unloading the other components")
            self.unload()
            return self.call(decoder, **feeds)["image"]

    def encode(self, pixels: Array) -> tuple[Array, Array]:
        """The mean and the deviation of latents of unit variance, each (batch, channels, rows, columns) float32.

        pixels: (batch, 3, height, width) in [-1, 1]. The range of the variance is that of diffusers.
        """
        outputs = self.call("vae_encoder", image=pixels)
        mean, log_variance = (outputs[name].astype(np.float32) for name in ("mean", "log_variance"))
        if not np.isfinite(mean).all():
            raise EngineError("vae_encoder: got latents that are not finite; export with --precision fp32 or w16")
        scaling = np.float32(self.bundle.manifest.latents.scaling)
        return mean * scaling, np.exp(np.clip(log_variance, -30, 20) / 2) * scaling

    def call(self, component: str, **feeds: Array) -> dict[str, Array]:
        """Runs one component on `feeds`, each brought to the float type that its graph declares."""
        dtypes = {spec.name: spec.dtype for spec in self.bundle.manifest.components[component].inputs}
        typed = {name: np.ascontiguousarray(feed, dtypes.get(name, feed.dtype)) for name, feed in feeds.items()}
        return self.engines[component](typed)


class Run:
    """One generation under way: an iterator of steps."""

    def __init__(self, pipeline: Pipeline, settings: Settings, timings: Timings | None = None) -> None:
        """Raises RequestError for a prompt that is malformed or a grid that cannot be laid out, OutOfMemoryError for
        more than the budget. timings: of the run that this is a part of."""
        self.settings = settings
        self._pipeline = pipeline
        self._timings = timings or Timings()
        with self._timings.phase("prompt"):
            self._negative = self._read(settings.negative, compose=False)
            self._positive = self._read(settings.prompt, compose=True)
            self._blend = None if settings.blend is None else self._read(settings.blend, compose=True)
        if self._blend:
            check_blend(self._positive, self._blend)
        sampler, schedule = SAMPLERS[settings.sampler], pipeline.bundle.manifest.schedule
        manifest = pipeline.bundle.manifest
        self._demand = demand_of(settings, len(self._positive.guides), manifest)
        self._plan = pipeline.budget.plan(manifest, self._demand) if pipeline.budget else None
        self._laid = sampler.grid(schedule, settings.steps, settings.spacing, settings.sigmas)
        part, known = settings.handover, schedule.train_steps
        self._first = max(settings.skipped, part.first(self._laid, known))
        self._grid = self._laid.after(self._first, part.last(self._laid, known))
        if not len(self._grid.sigmas):
            raise RequestError(
                f"start, end: got {part.start:g} and {part.end:g} with {settings.steps} steps, which leaves none of "
                "them; expected them further apart, or more steps"
            )
        self._sampler = partial(sampler.walk, **settings.options)
        self._result: Result | None = None
        self._steps = self._run()

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        try:
            return next(self._steps)
        except OutOfMemoryError as error:
            pipeline = self._pipeline
            advice = smaller(pipeline.engine, pipeline.engines, pipeline.bundle.manifest, self._demand)
            raise OutOfMemoryError(f"{error}; {advice}") from error

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds by phase, up to now; see `Result`."""
        return self._timings.seconds

    @property
    def total(self) -> int:
        """How many steps are taken."""
        return len(self._grid.sigmas)

    @property
    def result(self) -> Result:
        """The images; only there once every step is done. Raises RuntimeError before that."""
        if self._result is None:
            raise RuntimeError("the run is not finished: iterate over it to the end first")
        return self._result

    def latents(self) -> Array:
        """Runs to the last step and returns its latents, for another run to go on from; nothing is decoded."""
        return deque(islice(self, self.total), maxlen=1)[0].latents

    def _unload(self) -> None:
        """Frees what was used, if that is the plan; what comes next loads when it is called."""
        if self._plan is not None and not self._plan.keep:
            self._pipeline.unload()

    def _read(self, text: str, *, compose: bool) -> Prompt:
        settings = self.settings
        try:
            return read(text, self._pipeline.tokenizer, settings.steps, syntax=settings.syntax, compose=compose)
        except RequestError as error:
            if compose:
                raise
            raise RequestError(f"negative {error}") from error

    def _call(self, component: str, **feeds: Array) -> dict[str, Array]:
        """Runs one component, whose calls are a phase."""
        with self._timings.phase(component):
            return self._pipeline.call(component, **feeds)

    def _run(self) -> Iterator[Step]:
        latents = np.zeros(0, np.float32)
        for step in self._sampled():
            latents = step.latents
            yield step
        self._unload()
        images = self._pictures(latents)
        if self.settings.source:
            with self._timings.phase("image"):
                images = tuple(self.settings.source.finished(image) for image in images)
        bundle = self._pipeline.bundle
        self._result = Result(
            images,
            self.settings,
            self._timings.seconds,
            self._pipeline.engine,
            bundle.manifest.name,
            bundle.sha256,
            self._pipeline.loras,
        )

    def _pictures(self, latents: Array) -> tuple[Image, ...]:
        """What latents become."""
        space = self._pipeline.bundle.manifest.latents
        with self._timings.phase(self.settings.decoder):
            decode = partial(self._pipeline.decode, decoder=self.settings.decoder)
            pixels = decoded(decode, latents, space.pixels, self.settings.seamless)
        self._unload()
        with self._timings.phase("image"):
            return to_images(pixels)

    def _sampled(self) -> Iterator[Step]:
        """The sampler's steps."""
        grid, bundle = self._grid, self._pipeline.bundle
        tiny = TINY_DECODER in bundle.manifest.components
        previews = partial(self._pipeline.decode, decoder=TINY_DECODER) if tiny else None
        with self._timings.phase("prompt"):
            denoiser = self._denoiser()
        self._unload()
        with self._timings.phase("sampler"):
            walk = self._walk(denoiser)
        self._unload()
        for index in range(len(grid.sigmas)):
            denoiser.step = self._first + index
            with self._timings.phase("sampler"):
                latents, denoised = next(walk)
            timestep, sigma = float(grid.timesteps[index]), float(grid.sigmas[index])
            to_rgb = bundle.manifest.latents.to_rgb
            yield Step(index, self.total, timestep, sigma, latents, denoised, to_rgb, previews)

    def _walk(self, denoiser: Denoiser) -> Walk:
        """The sampler on its way, from the noise of the settings, or from their image and that noise."""
        settings, space = self.settings, self._pipeline.bundle.manifest.latents
        shown = self._pipeline.bundle.manifest.shown
        draws = Draws(settings, (space.channels, settings.height // space.pixels, settings.width // space.pixels))
        mask = settings.source.masked(settings.width, settings.height, space.pixels) if settings.source else None
        alone = not settings.skipped and (mask is not None or bool(shown))
        mask = None if "mask" in shown else mask  # such a UNet paints the rest as it is by itself
        clean = None if alone and mask is None else self._clean(draws)
        handed = settings.handover.latents
        initial = draws.initial() if handed is None else handed
        denoiser.shown = shown_of(shown, settings, space, self._encode, lambda: draws.white(0.0, 0.0))
        x = started(self._grid, initial, clean, alone=alone) if handed is None else initial
        sampler: Callable[..., Walk] = self._sampler
        if mask is not None and clean is not None:
            sampler = painted(sampler, partial(restore, mask, clean, initial))
        # The path of the whole grid, so that its noise is the same at any strength.
        noise = draws.path(self._laid) if SAMPLERS[settings.sampler].noise == "path" else draws.white
        return sampler(self._seeing(denoiser, space.pixels), x, self._grid, noise)

    def _seeing(self, denoiser: Denoiser, pixels: int) -> Denoise:
        """The denoiser, through windows where they are asked for. pixels: a side of one latent."""
        settings = self.settings
        if settings.window is None or settings.stride is None:
            return denoiser
        sides = (settings.height, settings.width, settings.window, settings.stride)
        rows, columns, window, stride = (side // pixels for side in sides)
        return windowed(denoiser, laid(rows, columns, window, stride, settings.seamless))

    def _clean(self, draws: Draws) -> Array | None:
        """The latents of the image that the run starts from, one an image of the batch."""
        settings = self.settings
        if settings.grown is not None:
            return settings.grown.latents
        if settings.source is None:
            return None
        with self._timings.phase("image"):
            pixels = settings.source.pixels(settings.width, settings.height)
        mean, deviation = self._encode(pixels)
        noise = draws.white(0.0, 0.0) if settings.source.posterior == "sample" else None
        return drawn(mean, deviation, noise, len(settings.seeds))

    def _encode(self, pixels: Array) -> tuple[Array, Array]:
        """The pipeline's encoder, whose calls are a phase."""
        with self._timings.phase("vae_encoder"):
            return self._pipeline.encode(pixels)

    def _denoiser(self) -> Denoiser:
        """The denoiser: everything that depends on the prompt or the timestep alone is computed here, once."""
        settings, pipeline, manifest = self.settings, self._pipeline, self._pipeline.bundle.manifest
        # A model that is told the guidance is not guided besides.
        scales = (1.0,) * settings.steps if manifest.embeds_guidance else settings.scales
        guidance = Guidance(scales, settings.interval, settings.guidance_rescale, settings.image_guidance or 1.0)
        times = timesteps_of_calls(self._sampler, self._grid)
        alone = not guidance.works(times) and self._positive.weight == 1
        zero = not alone and manifest.text.zero_negative and not settings.negative
        prompts = [self._positive] if alone or zero else [self._negative, self._positive]
        prompts += [self._blend] if self._blend else []
        texts = encode(self._call, manifest.text, prompts, settings.clip_skip)
        positive = self._positive
        if self._blend:
            positive, mixed = blended(positive, self._blend, texts, settings.blend_strength)
            texts |= mixed
        conditioning = Conditioning(self._negative, positive, texts, nothing(texts) if zero else None)
        sample, *_ = (spec for spec in manifest.components["unet"].inputs if spec.name == "sample")
        return Denoiser(
            self._call,
            conditioning,
            guidance,
            PREDICTIONS[manifest.schedule.prediction],
            time_bias(self._call, times, added(manifest, settings, conditioning)),
            pipeline.split_guidance or (self._plan is not None and self._plan.split),
            sample.dtype,
            steering=self._steering() if manifest.controls else None,
        )

    def _steering(self) -> Steering:
        """The control networks that the settings name, each of which has seen its image."""
        settings, steps = self.settings, len(self._laid.sigmas) - self._first
        components = self._pipeline.bundle.manifest.components
        steering = Steering(self._call, components, settings.controls, self._first, steps, settings.guess)
        for control in settings.controls:
            with self._timings.phase("image"):
                image = to_shares(control.framed(settings.width, settings.height, settings.source))
            steering.see(image)
        return steering


class TwoPasses(Run):
    """A generation whose picture is made larger by a second run, from what the first one sampled."""

    def __init__(self, pipeline: Pipeline, settings: Settings) -> None:
        """Raises as Run does, for either pass."""
        super().__init__(pipeline, settings)
        self._second = Run(pipeline, self._larger(np.zeros(0, np.float32)), self._timings)

    @property
    def total(self) -> int:
        """How many steps are taken in both passes."""
        return super().total + self._second.total

    def _run(self) -> Iterator[Step]:
        latents, own = np.zeros(0, np.float32), super().total
        for step in self._sampled():
            latents = step.latents
            yield step
        self._second = second = Run(self._pipeline, self._larger(self._grown(latents)), self._timings)
        for step in second:
            yield replace(step, index=step.index + own, total=self.total)
        self._result = replace(second.result, settings=self.settings)

    def _larger(self, latents: Array) -> Settings:
        """The settings of the second pass, from clean latents of its size."""
        settings, space = self.settings, self._pipeline.bundle.manifest.latents
        assert settings.hires is not None
        hires, old = settings.hires, (settings.width, settings.height)
        width, height = hires.size(*old, space.pixels)
        sizes = {name: (width, height) for name in ("original_size", "target_size") if getattr(settings, name) == old}
        changes: dict[str, Any] = {"width": width, "height": height, "steps": hires.steps, **sizes}
        return replace(settings, hires=None, grown=Grown(hires.strength, latents), **changes)

    def _grown(self, latents: Array) -> Array:
        """What the first pass sampled, at the size of the second: clean latents."""
        settings, space = self._second.settings, self._pipeline.bundle.manifest.latents
        width, height = settings.width, settings.height
        if self.settings.hires and self.settings.hires.upscaler == "latent":
            with self._timings.phase("sampler"):
                return bilinear(latents, height // space.pixels, width // space.pixels)
        pictures = self._pictures(latents)
        with self._timings.phase("image"):
            pixels = [to_pixels(resized(picture, width, height)) for picture in pictures]
        return np.concatenate([self._encode(one)[0] for one in pixels])
