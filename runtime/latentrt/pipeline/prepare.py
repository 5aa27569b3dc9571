"""Preparation of a run: settings resolved, prompts parsed, memory planned, before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from latentrt.bundle.manifest import Manifest
from latentrt.conditioning.prompt_blend import check_blend
from latentrt.errors import RequestError
from latentrt.pipeline.components import Components
from latentrt.pipeline.memory import MemoryDemand, MemoryPlan, demand_of
from latentrt.prompt import Prompt, read, without_text
from latentrt.prompt.tokenizer import Tokenizer
from latentrt.request.hires import Hires, UpscaledLatents
from latentrt.request.request import Request
from latentrt.request.settings import Settings, resolve
from latentrt.request.step_cache import CachePlan, cache_plan
from latentrt.sampling.calls import Walk, walk
from latentrt.sampling.grids import Grid
from latentrt.tensors import Array

SMALLEST = MemoryPlan(keep=False, split=True, peak_bytes=0)


@dataclass(frozen=True)
class Prompts:
    """The parsed prompts of a run. blend: the one that is mixed into the positive one."""

    positive: Prompt
    negative: Prompt
    blend: Prompt | None = None


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start.

    whole: the grid of all steps. grid: of the steps taken, from step `first` of the whole. calls: of the denoiser, on
    this grid. demand: memory demand. plan: memory plan; None without a budget. split: one call of the denoiser per
    prompt. second: the second pass of a run in two passes. before: number of steps in the pass before this one. cache:
    of a run with a step cache, its full calls.
    """

    settings: Settings
    prompts: Prompts
    whole: Grid
    grid: Grid
    calls: Walk
    first: int
    demand: MemoryDemand
    plan: MemoryPlan | None
    split: bool
    second: Prepared | None = None
    before: int = 0
    cache: CachePlan | None = None

    @property
    def total(self) -> int:
        """The number of steps taken, in both passes where there are two."""
        return self.second.total if self.second else self.before + len(self.grid.sigmas)

    @property
    def keeps(self) -> bool:
        """True if components stay loaded from one run to the next."""
        return (self.plan is None or self.plan.keep) and (self.second is None or self.second.keeps)

    def smallest(self) -> Prepared:
        """The same run with the plan that needs the least memory."""
        second = self.second and self.second.smallest()
        return replace(self, plan=SMALLEST, split=True, second=second)

    def starting_from(self, latents: Array) -> Prepared:
        """The second pass, with its clean start latents set."""
        upscaled = self.settings.upscaled
        assert upscaled is not None
        return replace(self, settings=replace(self.settings, upscaled=replace(upscaled, latents=latents)))


def prepare(components: Components, request: Request) -> Prepared:
    """The request prepared as a run of these components.

    Raises RequestError for an invalid request, OutOfMemoryError if it needs more than the budget.
    """
    loras = [one.file for one in components.loras if one.scale]
    return prepare_settings(components, resolve(request, components.bundle.manifest, loras))


def prepare_settings(components: Components, settings: Settings, before: int = 0) -> Prepared:
    """As `prepare`, from settings. before: number of steps in the pass before this one."""
    manifest, prompts = components.bundle.manifest, read_prompts(components.tokenizer, settings)
    check_longest_side(settings, manifest)
    demand = demand_of(settings, len(prompts.positive.sub_prompts), manifest)
    plan = components.budget.plan(manifest, demand) if components.budget else None
    schedule = settings.schedule
    noise = settings.noise_schedule(manifest)
    whole = schedule.grid(noise)
    first, last = steps_taken(settings, whole, noise.train_steps)
    grid = whole.sliced(first, last)
    calls = walk(schedule.sampler_steps, grid)
    return Prepared(
        settings,
        prompts,
        whole,
        grid,
        calls,
        first,
        demand,
        plan,
        components.split_guidance or (plan is not None and plan.split),
        second_pass(components, settings, settings.hires, len(grid.sigmas)) if settings.hires else None,
        before,
        cache_plan(settings.step_cache, calls) if settings.step_cache else None,
    )


def check_longest_side(settings: Settings, manifest: Manifest) -> None:
    """Raises RequestError for a call of the denoiser on more than its positions reach."""
    longest, window = manifest.longest_side, settings.tiling.window
    sides = {name: min(side, window or side) for name, side in (("width", settings.width), ("height", settings.height))}
    name = max(sides, key=lambda one: sides[one])
    if longest is not None and sides[name] > longest:
        raise RequestError(
            f"{name}: got {sides[name]} pixels, expected at most {longest}, as far as the positions of {manifest.name} "
            "reach; ask for less, or for tiles of less by --window"
        )


def read_prompts(tokenizer: Tokenizer | None, settings: Settings) -> Prompts:
    """The settings' prompts, parsed. Raises RequestError for a malformed one."""
    text = settings.text
    if tokenizer is None:
        return Prompts(without_text(settings.steps), without_text(settings.steps))

    def parsed(one: str, *, compose: bool) -> Prompt:
        return read(one, tokenizer, settings.steps, syntax=text.syntax, compose=compose)

    try:
        negative = parsed(text.negative, compose=False)
    except RequestError as error:
        raise RequestError(f"negative {error}") from error
    positive = parsed(text.prompt, compose=True)
    if text.blend is None:
        return Prompts(positive, negative)
    blend = parsed(text.blend, compose=True)
    check_blend(positive, blend)
    return Prompts(positive, negative, blend)


def steps_taken(settings: Settings, whole: Grid, train_steps: int) -> tuple[int, int]:
    """Indices of the first step taken and the one after the last, in the whole grid. Raises RequestError for none."""
    part = settings.denoising_range
    first, last = max(settings.skipped, part.first(whole, train_steps)), part.last(whole, train_steps)
    if first >= min(last, len(whole.sigmas)):
        raise RequestError(
            f"start, end: got {part.start:g} and {part.end:g} with {settings.steps} steps, which leaves none of "
            "them; expected them further apart, or more steps"
        )
    return first, last


def second_pass(components: Components, settings: Settings, hires: Hires, before: int) -> Prepared:
    """The second pass of a run in two passes, without its start latents yet. before: number of steps in the first."""
    old, pixels = (settings.width, settings.height), components.bundle.manifest.latents.pixel_multiple
    width, height = hires.size(*old, pixels)
    conditioning = settings.model_inputs
    sizes: dict[str, Any] = {
        name: (width, height) for name in ("original_size", "target_size") if getattr(conditioning, name) == old
    }
    larger = replace(
        settings,
        hires=None,
        upscaled=UpscaledLatents(hires.strength, np.zeros(0, np.float32)),
        width=width,
        height=height,
        schedule=settings.schedule.of_steps(hires.steps, components.bundle.manifest.noise_schedule.train_steps),
        model_inputs=replace(conditioning, **sizes),
    )
    return prepare_settings(components, larger, before)
