"""Base to refiner: one model draws the first part of the steps, another one the rest."""

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
    """Returns what is left of a request for another model, once `base` has gone that share of the way, 0 to 1.

    The base draws its part here; the request that is returned has its latents. What a mask leaves as it is would be
    lost on the way, and a picture has one size. Raises RequestError for a request with a mask or hires, besides what
    `Pipeline.steps` does.

    >>> refiner.steps(handed_over(base, Request("a red apple"), 0.8))  # doctest: +SKIP
    """
    for name in ("mask", "hires"):
        if getattr(request, name) is not None:
            raise RequestError(f"{name}: got it where a refiner takes over, expected one of the two")
    run = base.steps(replace(request, **{**defaults(parts_of(Request, "refiner")), "end": at}))
    settings, varied = run.settings, run.settings.noise.variation_seeds
    known: dict[str, Any] = {"seed": settings.seeds[0], "steps": settings.steps}
    known |= {"variation_seed": varied[0]} if varied else {}
    if request.syntax != "plain":  # the base's LoRA files do not fit another model
        known |= {name: untagged(text) for name in ("prompt", "blend") if (text := getattr(request, name)) is not None}
    return replace(request, **{**defaults(parts_of(Request, "base")), **known, "latents": run.latents(), "start": at})


def defaults(names: Sequence[str]) -> dict[str, Any]:
    """The defaults of these fields."""
    known = Request.__dataclass_fields__
    return {name: known[name].default for name in names}
