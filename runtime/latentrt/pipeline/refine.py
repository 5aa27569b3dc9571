"""Base and refiner: one model takes the first part of the steps, another one the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from latentrt.errors import RequestError
from latentrt.prompt import untagged
from latentrt.request.request import Request
from latentrt.request.rows import parts_of

if TYPE_CHECKING:
    from latentrt.pipeline.pipeline import Pipeline


def handed_over(base: Pipeline, request: Request, at: float) -> Request:
    """Returns the request for the refiner, after `base` has denoised from the start to `at`, 0 to 1.

    The base runs here, and the returned request has its latents. Raises RequestError for a mask, whose unmasked part
    the latents cannot carry over, for hires, which changes the size, and as `Pipeline.steps` does.

    >>> refiner.steps(handed_over(base, Request("a red apple"), 0.8))  # doctest: +SKIP
    """
    for name in ("mask", "hires"):
        if getattr(request, name) is not None:
            raise RequestError(f"{name}: got it where a refiner takes over, expected one of the two")
    run = base.steps(replace(request, **{**defaults(parts_of(Request, "refiner")), "end": at}))
    settings, variation_seeds = run.settings, run.settings.noise.variation_seeds
    known: dict[str, Any] = {"seed": settings.seeds[0], "steps": settings.schedule.steps}
    known |= {"variation_seed": variation_seeds[0]} if variation_seeds else {}
    if request.syntax != "plain":  # the base's LoRA files do not fit another model
        known |= {name: untagged(text) for name in ("prompt", "blend") if (text := getattr(request, name)) is not None}
    return replace(request, **{**defaults(parts_of(Request, "base")), **known, "latents": run.latents(), "start": at})


def defaults(names: Sequence[str]) -> dict[str, Any]:
    """The defaults of these fields."""
    known = Request.__dataclass_fields__
    return {name: known[name].default for name in names}
