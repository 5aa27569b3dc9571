"""A run that does a part of the way from noise to picture, and hands its latents to another model: base and refiner.

The way is that of the training timesteps, and where it is cut is as in diffusers 0.42.1's `denoising_end` and
`denoising_start` (Podell et al. 2023, section 2.5): a step belongs to the part in which its timestep lies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.errors import RequestError
from latentrt.prompt import untagged
from latentrt.request.request import Request
from latentrt.sampling.grids import Grid
from latentrt.tensors import Array
from latentrt.validate import number

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


@dataclass(frozen=True)
class Handover:
    """Which part of the way a run goes, as shares from 0 to 1, and the latents that it goes on from, if any."""

    start: float = 0.0
    end: float = 1.0
    latents: Array | None = field(default=None, repr=False)

    def size(self, pixels: int) -> tuple[int, int] | None:
        """The width and height in pixels of what the latents become. pixels: a side of one latent."""
        if self.latents is None:
            return None
        *_, rows, columns = self.latents.shape
        return columns * pixels, rows * pixels

    def first(self, grid: Grid, train_steps: int) -> int:
        """How many steps of the whole grid are those of an earlier run."""
        return int((grid.timesteps >= cutoff(self.start, train_steps)).sum()) if self.start else 0

    def last(self, grid: Grid, train_steps: int) -> int:
        """How many steps of the whole grid are those of this run and earlier ones."""
        return int((grid.timesteps >= cutoff(self.end, train_steps)).sum())

    def record(self) -> dict[str, Any]:
        """What a picture says of it, as JSON can hold it; nothing where the run went the whole way."""
        shares = {"start": self.start, "end": self.end} if (self.start, self.end) != (0, 1) else {}
        digest = {} if self.latents is None else {"latents": hashlib.sha256(self.latents.tobytes()).hexdigest()}
        return shares | digest


def cutoff(share: float, train_steps: int) -> int:
    """The lowest timestep of the part that ends at a share of the way."""
    return round(train_steps - share * train_steps)


def handover_of(request: Request, channels: int) -> Handover:
    """The request's part of the way. Raises RequestError for one that cannot be gone. channels: of the latents."""
    start, end = (number(name, getattr(request, name), 0, 1) for name in ("start", "end"))
    if start >= end:
        raise RequestError(f"end: got {end:g} with a start of {start:g}, expected more")
    if request.latents is None:
        if start:
            raise RequestError(f"start: got {start:g} without latents; give those of the run that ended there")
        return Handover(start, end)
    if request.init is not None:
        raise RequestError("latents: got them and init, expected one of the two")
    try:
        latents = np.asarray(request.latents, np.float32)
    except (TypeError, ValueError) as error:
        raise RequestError(f"latents: got {type(request.latents).__name__}, expected an array of numbers") from error
    expected = (request.batch, channels)
    if latents.ndim != 4 or latents.shape[:2] != expected or 0 in latents.shape or not np.isfinite(latents).all():
        shape = (*expected, "rows", "columns")
        raise RequestError(f"latents: got the shape {latents.shape}, expected finite numbers of the shape {shape}")
    return Handover(start, end, latents)


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
