"""Presets in bundle.json: settings that compute less, with the loss that was measured with them."""

from __future__ import annotations

from dataclasses import dataclass

from latentrt.bundle.quantization import PictureLoss
from latentrt.sampling.step_cache import Cached


@dataclass(frozen=True)
class Preset:
    """Fields of a request that together compute less.

    cache, cache_of, cache_order, guidance_interval: as in `Request`. sampler, steps, guidance: of the pictures that
    were measured. share: multiply-adds of all UNet calls, of those without the preset, 0 to 1. loss: of pictures with
    the preset. fewer_steps, fewer_loss: the number of steps that costs as much without it, and the loss of that.
    """

    sampler: str
    steps: int
    guidance: float
    share: float
    loss: PictureLoss
    fewer_steps: int
    fewer_loss: PictureLoss
    cache: int | None = None
    cache_of: Cached = "features"
    cache_order: int = 0
    guidance_interval: tuple[float, float] | None = None


# The fields of a preset that are a request's.
REQUESTED = ("cache", "cache_of", "cache_order", "guidance_interval")
