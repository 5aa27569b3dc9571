"""The sampler, its options, the number of steps and their noise levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, get_args

from latentrt.bundle.manifest import Manifest
from latentrt.errors import RequestError
from latentrt.request.request import Request
from latentrt.request.rows import checked
from latentrt.sampling.calls import Walk, walk
from latentrt.sampling.curves import Sigmas, SigmasName
from latentrt.sampling.grids import Grid, original_length, original_stride
from latentrt.sampling.samplers import SAMPLERS, Option, Value
from latentrt.sampling.samplers.names import Named, curve_of, sampler_named
from latentrt.sampling.schedule import NoiseSchedule, Spacing
from latentrt.sampling.step import SamplerSteps
from latentrt.validate import choice, number, or_default, shown

SIGMAS: tuple[SigmasName, ...] = get_args(SigmasName)
ORIGINAL = ("ddim", "pndm")  # samplers of the latent diffusion paper's code, whose grid "compvis" spacing is
OPTIONS = ("eta", "gamma", "order", "solver")


@dataclass(frozen=True)
class ScheduleSpec:
    """The sampler and its grid.

    steps: as requested. sigmas: a curve's name, or the levels themselves. options: the sampler's own.
    original_steps: the number that the latent diffusion paper's code takes instead, with "compvis" spacing.
    """

    sampler: str
    steps: int
    sigmas: Sigmas
    spacing: Spacing
    options: Mapping[str, Value] = field(default_factory=dict)
    original_steps: int | None = None

    @property
    def length(self) -> int:
        """The number of steps of the grid."""
        return self.original_steps or self.steps

    def grid(self, noise: NoiseSchedule) -> Grid:
        """The grid of all steps, on the model's schedule."""
        return SAMPLERS[self.sampler].grid(noise, self.steps, self.spacing, self.sigmas)

    @property
    def sampler_steps(self) -> Callable[..., SamplerSteps]:
        """The sampler with its options."""
        return partial(SAMPLERS[self.sampler].steps, **self.options)

    def calls(self, noise: NoiseSchedule) -> Walk:
        """The calls of the model in a run of all steps, on the model's schedule."""
        return walk(self.sampler_steps, self.grid(noise))

    def record(self) -> dict[str, Any]:
        """The fields of the request that make this again, the sampler's options as `options`."""
        return {name: value for name, value in vars(self).items() if name != "original_steps"}

    def of_steps(self, steps: int, train_steps: int) -> ScheduleSpec:
        """The same with another number of steps."""
        return replace(self, steps=steps, original_steps=original_steps(steps, self.spacing, train_steps))


def resolve_schedule(request: Request, manifest: Manifest) -> ScheduleSpec:
    """The request's sampler and grid, with the bundle's defaults. Raises RequestError."""
    named = sampler_named(or_default(request.sampler, manifest.defaults.sampler))
    check_prediction(named.sampler, manifest)
    sigmas = sigmas_of(or_default(curve_requested(request, named), manifest.defaults.sigmas))
    spacing: Spacing = checked(request, "spacing", manifest.noise_schedule.spacing)
    if spacing == "compvis":
        check_original(named.sampler, sigmas)
    steps = steps_of(request, sigmas, manifest)
    return ScheduleSpec(
        sampler=named.sampler,
        steps=steps,
        sigmas=sigmas,
        spacing=spacing,
        options=options_of(request, named, manifest),
        original_steps=original_steps(steps, spacing, manifest.noise_schedule.train_steps),
    )


def original_steps(steps: int, spacing: Spacing, train_steps: int) -> int | None:
    """The number of steps of a grid with "compvis" spacing, else None. Raises RequestError where there is none."""
    if spacing != "compvis":
        return None
    original_stride(steps, train_steps)
    return original_length(steps, train_steps)


def check_original(sampler: str, sigmas: Sigmas) -> None:
    """Raises RequestError unless the latent diffusion paper's code has a grid for these."""
    if sampler not in ORIGINAL:
        raise RequestError(f"spacing: got compvis with {sampler}, expected it with {' or '.join(ORIGINAL)}")
    if sigmas != "normal":
        raise RequestError(f"spacing: got compvis with the sigmas {shown(sigmas)}, expected normal ones")


def check_prediction(sampler: str, manifest: Manifest) -> None:
    """Raises RequestError unless the sampler is for what the model predicts."""
    prediction = manifest.noise_schedule.prediction
    if SAMPLERS[sampler].flow != (prediction == "flow_prediction"):
        fitting = [name for name, known in SAMPLERS.items() if known.flow != SAMPLERS[sampler].flow]
        raise RequestError(f"sampler: got {sampler}, but the model's is {prediction}; use {', '.join(fitting)}")


def curve_requested(request: Request, named: Named) -> Any:
    """The noise levels that the request names, or that its sampler's name does. Raises RequestError for two curves."""
    if request.sigmas is None or named.sigmas is None:
        return or_default(request.sigmas, named.sigmas)
    if sigmas_of(request.sigmas) != named.sigmas:
        raise RequestError(
            f"sigmas: got {shown(request.sigmas)} with the sampler {request.sampler!r}, which says {named.sigmas}; "
            f"use the sampler {named.sampler}"
        )
    return named.sigmas


def steps_of(request: Request, sigmas: Sigmas, manifest: Manifest) -> int:
    """The number of steps: as many as there are sigmas where these are listed."""
    if not isinstance(sigmas, tuple):
        steps: int = checked(request, "steps", manifest.defaults.steps, manifest.noise_schedule.train_steps)
        return steps
    if request.steps not in (None, len(sigmas)):
        raise RequestError(
            f"steps: got {shown(request.steps)} with {len(sigmas)} sigmas, expected {len(sigmas)} or nothing"
        )
    return len(sigmas)


def sigmas_of(value: Any) -> Sigmas:
    """A curve's name, or falling noise levels above zero; a zero at the end, where runs end anyway, is dropped."""
    if isinstance(value, str):
        found = curve_of(value)
        return choice("sigmas", value, SIGMAS) if found is None else found
    if not isinstance(value, Sequence):
        raise RequestError(f"sigmas: got {shown(value)}, expected one of {', '.join(SIGMAS)}, or falling numbers")
    levels = tuple(number("sigmas", level, 0, math.inf) for level in value)
    levels = levels[:-1] if levels and levels[-1] == 0 else levels
    if not levels or levels[-1] == 0 or any(after >= before for before, after in pairwise(levels)):
        raise RequestError(f"sigmas: got {shown(list(value))}, expected numbers that fall, each above zero")
    return levels


def options_of(request: Request, named: Named, manifest: Manifest) -> dict[str, Value]:
    """The sampler's options, with the bundle's defaults and its own. Raises RequestError for one that it lacks."""
    given = {name: getattr(request, name) for name in OPTIONS if getattr(request, name) is not None}
    sampler, requested = named.sampler, {**named.options, **given}
    known = SAMPLERS[sampler].options
    for name in requested.keys() - known.keys():
        having = [other for other, kind in SAMPLERS.items() if name in kind.options]
        got = shown(requested[name])
        raise RequestError(f"{name}: got {got}, but {sampler} has none; it is for {', '.join(having)}")
    usual = {"eta": manifest.defaults.eta} if sampler == manifest.defaults.sampler else {}
    return {
        name: option_of(name, or_default(requested.get(name), or_default(usual.get(name), one.default)), one)
        for name, one in known.items()
    }


def option_of(name: str, value: Any, option: Option) -> Value:
    """`value`, once the option allows it."""
    return choice(name, value, option.choices) if option.choices else number(name, value, *option.range)
