"""One generation under way: what the settings ask for, in the order in which it happens."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.bundle.tasks import TINY_DECODER
from latentrt.conditioning.control import ControlSet
from latentrt.conditioning.extra_channels import ChannelMaker, extra_channels_of
from latentrt.conditioning.inputs import InputMaker, denoiser_inputs
from latentrt.conditioning.prompt_blend import check_blend
from latentrt.conditioning.prompts import conditioning_of, with_zero_negative
from latentrt.conditioning.text import encode
from latentrt.errors import OutOfMemoryError, RequestError
from latentrt.images.pillow import resized, to_images, to_pixels, to_shares
from latentrt.pipeline.denoiser import Denoiser, timesteps_of_calls
from latentrt.pipeline.memory import Plan, demand_of, smaller
from latentrt.pipeline.result import Result, Step
from latentrt.pipeline.timings import Timings
from latentrt.pipeline.turns import TURNS
from latentrt.prompt import Prompt, read
from latentrt.request.hires import Grown
from latentrt.request.settings import Settings
from latentrt.sampling.guidance import Guidance
from latentrt.sampling.inpainting import painted
from latentrt.sampling.noise.source import NoiseSource
from latentrt.sampling.prediction import PREDICTIONS
from latentrt.sampling.resize import bilinear
from latentrt.sampling.samplers import SAMPLERS
from latentrt.sampling.start_latents import drawn, restore, started
from latentrt.sampling.step import Denoise, Walk
from latentrt.sampling.tiling import decoded, laid, windowed
from latentrt.tensors import Array

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentrt.pipeline.pipeline import Pipeline

log = logging.getLogger(__name__)


class Run:
    """One generation under way: an iterator of steps."""

    def __init__(self, pipeline: Pipeline, settings: Settings, timings: Timings | None = None) -> None:
        """Raises RequestError for a prompt that is malformed or a grid that cannot be laid out, OutOfMemoryError for
        more than the budget. timings: of the run that this is a part of."""
        self.settings = settings
        self._pipeline = pipeline
        self._timings, self._within = timings or Timings(), timings is not None
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
        self._done, self._again = 0, False
        self._steps = self._run()

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        try:
            return self._next()
        except MemoryError as error:  # an engine's, NumPy's or Pillow's
            if self._within:
                raise
            if self._again:
                raise self._short(error) from error
            log.warning("too little memory: starting again with a component at a time (%s)", error)
        self._start_again()  # outside the handler, whose error holds all that was made
        return next(self)

    def _next(self) -> Step:
        """The next step; in its turn, where there is a budget."""
        pipeline, plan = self._pipeline, self._plan
        with TURNS.of(self._timings, pipeline, keep=plan.keep) if pipeline.budget and plan else nullcontext():
            step = next(self._steps)
        self._done += 1
        return step

    def _start_again(self) -> None:
        """Goes back to the start by the smallest plan; steps that were given are computed again, and not given."""
        self._again, self._plan = True, Plan(keep=False, split=True, peak_bytes=0)
        self._pipeline.unload()
        self._steps = islice(self._run(), self._done, None)

    def _short(self, error: MemoryError) -> OutOfMemoryError:
        """What is raised where no plan helped."""
        pipeline = self._pipeline
        advice = smaller(pipeline.engine, pipeline.engines, pipeline.bundle.manifest, self._demand)
        return OutOfMemoryError(f"{str(error) or 'out of memory'}; {advice}")

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
            pixels = decoded(decode, latents, space.factor, self.settings.seamless)
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
        extra = self._pipeline.bundle.manifest.extra_channels
        draws = NoiseSource(
            settings.noise_spec, (space.channels, settings.height // space.factor, settings.width // space.factor)
        )
        mask = settings.source.masked(settings.width, settings.height, space.factor) if settings.source else None
        alone = not settings.skipped and (mask is not None or bool(extra))
        mask = None if "mask" in extra else mask  # such a UNet paints the rest as it is by itself
        clean = None if alone and mask is None else self._clean(draws)
        handed = settings.handover.latents
        initial = draws.initial() if handed is None else handed
        maker = ChannelMaker(settings, space, self._encode, lambda: draws.normal(0.0, 0.0))
        denoiser.extra_channels = extra_channels_of(extra, maker)
        x = started(self._grid, initial, clean, alone=alone) if handed is None else initial
        sampler: Callable[..., Walk] = self._sampler
        if mask is not None and clean is not None:
            sampler = painted(sampler, partial(restore, mask, clean, initial))
        # The path of the whole grid, so that its noise is the same at any strength.
        noise = draws.brownian(self._laid) if SAMPLERS[settings.sampler].noise == "brownian" else draws.normal
        return sampler(self._seeing(denoiser, space.factor), x, self._grid, noise)

    def _seeing(self, denoiser: Denoiser, pixels: int) -> Denoise:
        """The denoiser, through windows where they are asked for. pixels: a side of one latent."""
        settings = self.settings
        if settings.window is None or settings.stride is None:
            return denoiser
        sides = (settings.height, settings.width, settings.window, settings.stride)
        rows, columns, window, stride = (side // pixels for side in sides)
        return windowed(denoiser, laid(rows, columns, window, stride, settings.seamless))

    def _clean(self, draws: NoiseSource) -> Array | None:
        """The latents of the image that the run starts from, one an image of the batch."""
        settings = self.settings
        if settings.grown is not None:
            return settings.grown.latents
        if settings.source is None:
            return None
        with self._timings.phase("image"):
            pixels = settings.source.pixels(settings.width, settings.height)
        mean, deviation = self._encode(pixels)
        noise = draws.normal(0.0, 0.0) if settings.source.posterior == "sample" else None
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
        texts = encode(self._call, manifest, prompts, settings.clip_skip)
        blend = (self._blend, settings.blend_strength) if self._blend else None
        negative = None if alone or zero else self._negative
        conditioning = conditioning_of(texts, self._positive, negative, blend)
        if zero:
            conditioning = with_zero_negative(conditioning, settings.steps)
        return Denoiser(
            self._call,
            manifest,
            denoiser_inputs(manifest, InputMaker(self._call, conditioning, settings, times)),
            guidance,
            PREDICTIONS[manifest.schedule.prediction],
            pipeline.split_guidance or (self._plan is not None and self._plan.split),
            controls=self._controls() if manifest.controls else None,
        )

    def _controls(self) -> ControlSet:
        """The settings' control images; each network was called with its own."""
        settings, steps = self.settings, len(self._laid.sigmas) - self._first
        controls = ControlSet(self._call, self._pipeline.bundle.manifest, self._first, steps, settings.guess)
        for control in settings.controls:
            with self._timings.phase("image"):
                image = to_shares(control.framed(settings.width, settings.height, settings.source))
            controls.attach(control, image)
        return controls


class TwoPasses(Run):
    """A generation whose picture is made larger by a second run, from what the first one sampled."""

    def __init__(self, pipeline: Pipeline, settings: Settings) -> None:
        """Raises as Run does, for either pass."""
        super().__init__(pipeline, settings)
        self._second = Run(pipeline, self._larger(np.zeros(0, np.float32)), self._timings)
        self._demand = self._second._demand  # the larger one, for advice

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
        width, height = hires.size(*old, space.factor)
        sizes = {name: (width, height) for name in ("original_size", "target_size") if getattr(settings, name) == old}
        changes: dict[str, Any] = {"width": width, "height": height, "steps": hires.steps, **sizes}
        return replace(settings, hires=None, grown=Grown(hires.strength, latents), **changes)

    def _grown(self, latents: Array) -> Array:
        """What the first pass sampled, at the size of the second: clean latents."""
        settings, space = self._second.settings, self._pipeline.bundle.manifest.latents
        width, height = settings.width, settings.height
        if self.settings.hires and self.settings.hires.upscaler == "latent":
            with self._timings.phase("sampler"):
                return bilinear(latents, height // space.factor, width // space.factor)
        pictures = self._pictures(latents)
        with self._timings.phase("image"):
            pixels = [to_pixels(resized(picture, width, height)) for picture in pictures]
        return np.concatenate([self._encode(one)[0] for one in pixels])
