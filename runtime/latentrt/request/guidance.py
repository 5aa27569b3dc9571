"""Guidance: its scale per step, where it works, and how closely an edited image is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from latentrt.bundle.manifest import Manifest
from latentrt.errors import RequestError
from latentrt.request.request import Request
from latentrt.request.rows import checked
from latentrt.sampling.guidance import EVERYWHERE
from latentrt.validate import is_list, number, or_default, shown

# As in diffusers 0.42.1's StableDiffusionInstructPix2PixPipeline.
IMAGE_GUIDANCE = 1.5


@dataclass(frozen=True)
class GuidanceSpec:
    """Classifier-free guidance. scale: one, or one per step. interval: the sigmas between which it works.

    image: the image guidance of a model that edits images; None where it edits none.
    """

    scale: float | tuple[float, ...]
    rescale: float = 0.0
    interval: tuple[float, float] | None = None
    image: float | None = None

    def scales(self, steps: int) -> tuple[float, ...]:
        """The scale at each step."""
        return self.scale if isinstance(self.scale, tuple) else (self.scale,) * steps

    @property
    def sigmas(self) -> tuple[float, float]:
        """The sigmas between which guidance works."""
        return self.interval or EVERYWHERE

    def record(self) -> dict[str, Any]:
        """The fields of the request that make this again; an interval without an end has None there, as JSON."""
        low_high = self.interval and (self.interval[0], self.interval[1] if math.isfinite(self.interval[1]) else None)
        return {
            "guidance": self.scale,
            "guidance_rescale": self.rescale,
            "guidance_interval": low_high,
            "image_guidance": self.image,
        }


def resolve_guidance(request: Request, manifest: Manifest, steps: int) -> GuidanceSpec:
    """The request's guidance, with the bundle's default. Raises RequestError."""
    return GuidanceSpec(
        scale_of(request, manifest, steps),
        checked(request, "guidance_rescale"),
        interval_of(request.guidance_interval),
        image_guidance_of(request, manifest),
    )


def scale_of(request: Request, manifest: Manifest, steps: int) -> float | tuple[float, ...]:
    """One finite number, or one per step; always one for a model that takes the scale as an input."""
    scale = or_default(request.guidance, manifest.defaults.guidance)
    if not manifest.unconditional and scale != 1:
        raise RequestError(
            f"guidance: got {shown(scale)}, but {manifest.name} has no unconditional input to guide from; leave it out"
        )
    if manifest.embeds_guidance or not is_list(scale):
        return number("guidance", scale, -math.inf, math.inf)
    if len(scale) != steps:
        raise RequestError(
            f"guidance: got {len(scale)} numbers for {steps} steps, expected one per step, or one for all"
        )
    return tuple(number("guidance", one, -math.inf, math.inf) for one in scale)


def interval_of(value: Any) -> tuple[float, float] | None:
    """The lowest and the highest sigma, or None for everywhere; a highest of None is infinity, as JSON has none."""
    if value is None:
        return None
    if not is_list(value) or len(value) != 2:
        raise RequestError(f"guidance_interval: got {shown(value)}, expected two sigmas, for example (0.3, 3.0)")
    low = number("guidance_interval", value[0], 0, math.inf)
    endless = value[1] is None or value[1] == math.inf
    high = math.inf if endless else number("guidance_interval", value[1], 0, math.inf)
    if low > high:
        raise RequestError(f"guidance_interval: got {low} to {high}, expected the lower sigma first")
    return low, high


def image_guidance_of(request: Request, manifest: Manifest) -> float | None:
    """The image guidance of a model that edits images; None for any other model, and without an image."""
    if "image" not in manifest.extra_channels:
        if request.image_guidance is not None:
            got = shown(request.image_guidance)
            raise RequestError(f"image_guidance: got {got}, but {manifest.name} edits no images; leave it out")
        return None
    scale: float | None = None if request.init is None else checked(request, "image_guidance", IMAGE_GUIDANCE)
    return scale
