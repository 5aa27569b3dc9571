"""A picture in two passes: at the size that a model was trained for, then larger, from image to image.

A model that draws beyond its size repeats things; what is there at its own size stays (AUTOMATIC1111's "hires fix").
The second pass is diffusers' StableDiffusionImg2ImgPipeline from the upscaled latents or pixels, with the same seeds,
whose noise is that of the larger size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args

from latentrt.bundle.manifest import Manifest
from latentrt.errors import RequestError
from latentrt.request.init_image import skipped
from latentrt.request.request import Request
from latentrt.sampling.resize import Upscaler
from latentrt.tensors import Array
from latentrt.validate import choice, number, shown, whole

UPSCALERS: tuple[Upscaler, ...] = get_args(Upscaler)
STRENGTH = 0.5
LARGEST_SCALE = 16
DEFAULTS: dict[str, Any] = {"hires": None, "hires_steps": None, "hires_strength": None, "hires_upscaler": "latent"}


@dataclass(frozen=True)
class Hires:
    """The second pass; see `Request`. steps: of the whole way, of which `strength` is the share that is gone."""

    scale: float
    steps: int
    strength: float = STRENGTH
    upscaler: Upscaler = "latent"

    def size(self, width: int, height: int, multiple: int) -> tuple[int, int]:
        """The sides of the larger picture in pixels, cut to multiples."""
        larger, taller = (int(side * self.scale) // multiple * multiple for side in (width, height))
        return larger, taller

    def record(self) -> dict[str, Any]:
        """What a picture says of it, as JSON can hold it."""
        return dict(zip(DEFAULTS, (self.scale, self.steps, self.strength, self.upscaler), strict=True))


@dataclass(frozen=True)
class Grown:
    """Clean latents of unit variance, one an image, to start from; and the share of its steps that it takes."""

    strength: float
    latents: Array = field(repr=False)

    def skipped(self, steps: int) -> int:
        """How many of the steps are not taken."""
        return skipped(steps, self.strength, "hires_strength")


def hires_of(request: Request, manifest: Manifest, steps: int) -> Hires | None:
    """The request's second pass, or None. Raises RequestError for one that cannot be made. steps: of the first."""
    if request.hires is None:
        for name, default in DEFAULTS.items():
            if getattr(request, name) != default:
                raise RequestError(f"{name}: got {shown(getattr(request, name))} without hires; say how much larger")
        return None
    for name, unset in (("init", None), ("latents", None), ("end", 1)):
        got = getattr(request, name)
        if got is not unset and (unset is None or got != unset):  # latents are an array, which is equal to nothing
            raise RequestError(f"hires: got it and {name}, expected one of the two")
    asked, strength = request.hires_steps, request.hires_strength
    hires = Hires(
        number("hires", request.hires, 1, LARGEST_SCALE),
        steps if asked is None else whole("hires_steps", asked, 1, manifest.schedule.train_steps),
        number("hires_strength", STRENGTH if strength is None else strength, 0, 1),
        choice("hires_upscaler", request.hires_upscaler, UPSCALERS),
    )
    if hires.upscaler == "lanczos" and "vae_encoder" not in manifest.components:
        raise RequestError(f"hires_upscaler: {manifest.name} has no vae_encoder, which lanczos needs; use latent")
    for name in ("guidance", "sigmas"):
        if hires.steps != steps and isinstance(getattr(request, name), (list, tuple)):
            raise RequestError(f"hires_steps: got {hires.steps} with {name} for each of {steps}; leave it out")
    skipped(hires.steps, hires.strength, "hires_strength")
    return hires
