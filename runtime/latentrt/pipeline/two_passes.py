"""Pictures in two passes (hires fix): the second starts from the upscaled latents of the first."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import numpy as np

from latentrt.images.pillow import resized, to_pixels
from latentrt.pipeline.picture import picture, sample
from latentrt.pipeline.prepare import Prepared
from latentrt.pipeline.result import Step
from latentrt.pipeline.stages import decode
from latentrt.pipeline.timed import Timed
from latentrt.sampling.resize import bilinear
from latentrt.tensors import Array

if TYPE_CHECKING:
    from PIL.Image import Image


def two_passes(run: Timed, prepared: Prepared) -> Generator[Step, None, tuple[Image, ...]]:
    """Yields the steps of both passes, and returns the pictures of the second."""
    assert prepared.second is not None
    latents = yield from sample(run, prepared)
    second = prepared.second.starting_from(upscale(run, prepared, latents))
    return (yield from picture(run, second))


def upscale(run: Timed, prepared: Prepared, latents: Array) -> Array:
    """Clean latents of the second pass's size, from resized latents, or from resized pictures encoded again."""
    assert prepared.second is not None and prepared.settings.hires is not None
    settings, pixels = prepared.second.settings, run.components.bundle.manifest.latents.factor
    if prepared.settings.hires.upscaler == "latent":
        with run.phase("sampler"):
            return bilinear(latents, settings.height // pixels, settings.width // pixels)
    images = decode(run, prepared, latents)
    with run.phase("image"):
        larger = [to_pixels(resized(image, settings.width, settings.height)) for image in images]
    return np.concatenate([run.encode(one)[0] for one in larger])
