"""Base to refiner: one model draws the first part of the steps, another one the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from latentrt.errors import RequestError
from latentrt.prompt import untagged
from latentrt.request.request import Request

if TYPE_CHECKING:
    from latentrt.pipeline.pipeline import Pipeline


# What is done once the base has gone its part: its image is in the latents, and its size and steering with it.
BASES = (
    *("width", "height", "target_size", "init", "strength", "fit", "posterior", "image_guidance", "controls", "guess"),
    *("mask", "mask_blur", "mask_padding", "overlay", "extend", "hires", "hires_steps", "hires_strength"),
    *("hires_upscaler", "start"),
)


# What only the model that goes on is told, and what is for the end of the way.
FOLLOWERS = ("aesthetic_score", "negative_aesthetic_score", "fast_decode", "latents", "end")


# What goes for both.
BOTH = (
    *(
        "prompt",
        "negative",
        "steps",
        "guidance",
        "seed",
        "sampler",
        "sigmas",
        "spacing",
        "batch",
        "syntax",
        "lora_tags",
    ),
    *("guidance_rescale", "guidance_interval", "clip_skip", "noise", "variation_seed", "variation_strength", "blend"),
    *("blend_strength", "window", "stride", "seamless", "original_size", "crop", "eta", "gamma", "order", "solver"),
)


DEFAULTS = {field.name: field.default for field in fields(Request) if field.name != "prompt"}


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
    run = base.steps(replace(request, **{**reset(FOLLOWERS), "end": at}))
    settings, varied = run.settings, run.settings.variation_seeds
    known: dict[str, Any] = {"seed": settings.seeds[0], "steps": settings.steps}
    known |= {"variation_seed": varied[0]} if varied else {}
    if request.syntax != "plain":  # the base's LoRA files do not fit another model
        known |= {name: untagged(text) for name in ("prompt", "blend") if (text := getattr(request, name)) is not None}
    return replace(request, **{**reset(BASES), **known, "latents": run.latents(), "start": at})


def reset(names: Sequence[str]) -> dict[str, Any]:
    """The defaults of these fields."""
    return {name: DEFAULTS[name] for name in names}
