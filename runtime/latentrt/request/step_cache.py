"""Step caching as a request asks for it: how many calls are full, and what these leave for the others."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from latentrt.bundle.manifest import Manifest
from latentrt.errors import RequestError
from latentrt.request.request import Request
from latentrt.request.rows import checked, refuse_without
from latentrt.sampling.calls import Walk
from latentrt.sampling.step_cache import Cached, full_calls
from latentrt.validate import is_list, shown, whole

OFF = 1


@dataclass(frozen=True)
class StepCacheSpec:
    """Full calls of the denoiser, and what they leave for the calls between them.

    calls: one full call in so many, and the last; or the numbers of the full calls. of: "features" (the shallow
    denoiser computes the rest), "features+guidance" (of the positive prompt alone; the difference that the negative one
    makes is kept), "guidance" (that difference alone) or "prediction" (nothing is computed). order: 0 repeats what was
    kept, 1 extrapolates it.
    """

    calls: int | tuple[int, ...]
    of: Cached = "features"
    order: int = 0

    @property
    def features(self) -> bool:
        """Whether calls that are not full are made of the shallow denoiser."""
        return self.of.startswith("features")

    @property
    def guidance(self) -> bool:
        """Whether the difference that the negative prompt makes is kept."""
        return self.of.endswith("guidance")

    def record(self) -> dict[str, Any]:
        """The fields of the request that make this again."""
        calls = list(self.calls) if isinstance(self.calls, tuple) else self.calls
        return {"cache": calls, "cache_of": self.of, "cache_order": self.order}


def resolve_step_cache(request: Request, manifest: Manifest, *, guided: bool) -> StepCacheSpec | None:
    """The request's step caching; None where every call is full. guided: whether a step has a negative prompt.

    Raises RequestError.
    """
    if request.cache is None:
        refuse_without("cache", request)
        return None
    calls = calls_of(request.cache)
    spec = StepCacheSpec(calls, checked(request, "cache_of"), checked(request, "cache_order"))
    if calls == OFF:
        return None
    if isinstance(calls, tuple) and request.hires is not None:
        raise RequestError(f"cache: got {shown(request.cache)} with hires, expected one number for both passes")
    if spec.features and manifest.shallow is None:
        raise RequestError(
            f"cache: got {shown(request.cache)}, but {manifest.name} has no shallow UNet; make a bundle with one by "
            "`latentrt step-cache`, or use --cache-of prediction"
        )
    if spec.guidance and not guided:
        raise RequestError(f"cache_of: got {spec.of} without guidance; use features or prediction")
    return spec


@dataclass(frozen=True)
class CachePlan:
    """The calls of a run: which are full, and the timestep of each."""

    spec: StepCacheSpec
    full: frozenset[int]
    timesteps: tuple[float, ...]


def cache_plan(spec: StepCacheSpec, calls: Walk) -> CachePlan:
    """The plan for these calls. Raises RequestError where the sampler or the list of full calls does not allow it."""
    if spec.of == "prediction" and calls.draws_noise:
        raise RequestError(
            "cache_of: got prediction with a sampler that draws noise, which a kept prediction does not see; use "
            "features, or a sampler such as ddim or dpmpp_2m"
        )
    if isinstance(spec.calls, int):
        return CachePlan(spec, full_calls(calls.timesteps, spec.calls), calls.timesteps)
    last = len(calls.timesteps) - 1
    if spec.calls[-1] > last:
        raise RequestError(f"cache: got call {spec.calls[-1]}, expected calls from 0 to {last}, as the run has")
    return CachePlan(spec, frozenset({0, *spec.calls}), calls.timesteps)


def calls_of(value: Any) -> int | tuple[int, ...]:
    """One full call in so many, or the rising numbers of the full calls."""
    if not is_list(value):
        return whole("cache", value, OFF, None)
    calls = tuple(whole("cache", one, 0, None) for one in value)
    if not calls or any(after <= before for before, after in pairwise(calls)):
        raise RequestError(f"cache: got {shown(value)}, expected one number, or rising numbers of calls, from 0")
    return calls
