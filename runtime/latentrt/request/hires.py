"""Two passes: a picture at the size that a model was trained for, then a larger one from it, image to image.

A model repeats things beyond its size; what is there at its own size stays (AUTOMATIC1111's "hires fix"). The second
pass is diffusers' StableDiffusionImg2ImgPipeline from the upscaled latents or pixels, with the same seeds, whose noise
is that of the larger size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from latentrt.bundle.manifest import Manifest
from latentrt.errors import RequestError
from latentrt.request.init_image import skipped_steps
from latentrt.request.request import Request
from latentrt.request.rows import changed, checked, refuse_without
from latentrt.sampling.resize import Upscaler
from latentrt.tensors import Array
from latentrt.validate import is_list

STRENGTH = 0.5


@dataclass(frozen=True)
class Hires:
    """The second pass. steps: of its whole schedule, of which it takes the last `strength`, a share from 0 to 1."""

    scale: float
    steps: int
    strength: float = STRENGTH
    upscaler: Upscaler = "latent"

    def size(self, width: int, height: int, multiple: int) -> tuple[int, int]:
        """The sides of the larger picture in pixels, cut to multiples."""
        larger, taller = (int(side * self.scale) // multiple * multiple for side in (width, height))
        return larger, taller

    def record(self) -> dict[str, Any]:
        """The fields of the request that make this again."""
        return {
            "hires": self.scale,
            "hires_steps": self.steps,
            "hires_strength": self.strength,
            "hires_upscaler": self.upscaler,
        }


@dataclass(frozen=True)
class UpscaledLatents:
    """Clean latents of unit variance, one per image, to start from; and the share of the steps that is taken."""

    strength: float
    latents: Array = field(repr=False)

    def skipped(self, steps: int) -> int:
        """The number of steps at the front that are not taken."""
        return skipped_steps(steps, self.strength, "hires_strength")


def resolve_hires(request: Request, manifest: Manifest, steps: int) -> Hires | None:
    """The request's second pass, or None. steps: of the first. Raises RequestError."""
    if request.hires is None:
        refuse_without("hires", request)
        return None
    for name in ("init", "latents", "end"):
        if changed(request, name):
            raise RequestError(f"hires: got it and {name}, expected one of the two")
    hires = Hires(
        checked(request, "hires"),
        checked(request, "hires_steps", steps, manifest.noise_schedule.train_steps),
        checked(request, "hires_strength", STRENGTH),
        checked(request, "hires_upscaler"),
    )
    if hires.upscaler == "lanczos" and "vae_encoder" not in manifest.components:
        raise RequestError(f"hires_upscaler: {manifest.name} has no vae_encoder, which lanczos needs; use latent")
    for name in ("guidance", "sigmas"):
        if hires.steps != steps and is_list(getattr(request, name)):
            raise RequestError(f"hires_steps: got {hires.steps} with {name} for each of {steps}; leave it out")
    skipped_steps(hires.steps, hires.strength, "hires_strength")
    return hires
