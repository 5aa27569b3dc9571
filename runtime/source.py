"""The image that a run starts from: brought to size, made latents, and noised to the level of the first step.

A run of strength 0.75 takes the last three quarters of its steps: the grid starts later, samplers know nothing of it.
Which steps those are, how the image is resized and how its latents are noised is as in diffusers 0.42.1's
StableDiffusionImg2ImgPipeline.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from latentrt.checks import choice, number
from latentrt.errors import RequestError
from latentrt.image import digest, open_image, resized, to_pixels
from latentrt.manifest import Manifest
from latentrt.request import Fit, Posterior, Request
from latentrt.schedule import alpha, spread
from latentrt.tensors import Array

if TYPE_CHECKING:
    from PIL.Image import Image

FITS: tuple[Fit, ...] = get_args(Fit)
POSTERIORS: tuple[Posterior, ...] = get_args(Posterior)
STRENGTH = 0.8
DEFAULTS = {"strength": None, "fit": "stretch", "posterior": "mean"}


@dataclass(frozen=True)
class Source:
    """The image as it was given, RGB, and how a run starts from it; see `Request`."""

    image: Image = field(repr=False)
    strength: float = STRENGTH
    fit: Fit = "stretch"
    posterior: Posterior = "mean"

    def size(self, multiple: int) -> tuple[int, int]:
        """The image's width and height in pixels, each cut down to a multiple."""
        width, height = (side - side % multiple for side in self.image.size)
        if not width or not height:
            got = "x".join(map(str, self.image.size))
            raise RequestError(f"init: got an image of {got} pixels, expected at least {multiple}x{multiple}")
        return width, height

    def skipped(self, steps: int) -> int:
        """How many of the steps are not taken. Raises RequestError where none would be left."""
        taken = min(int(steps * self.strength), steps)
        if not taken:
            raise RequestError(
                f"strength: got {self.strength:g} with {steps} steps, which leaves none of them; expected at least "
                f"{1 / steps:.3g}, or more steps"
            )
        return steps - taken

    def pixels(self, width: int, height: int) -> Array:
        """The image at that size: (1, 3, height, width) float32 in [-1, 1]."""
        return to_pixels(resized(self.image, width, height, self.fit))

    def record(self) -> dict[str, Any]:
        """What a picture says of how it was started, as JSON can hold it; of the image, what tells it from others."""
        record = {"strength": self.strength, "fit": self.fit, "posterior": self.posterior}
        return record | {"init": digest(self.image)}


def source_of(request: Request, manifest: Manifest) -> Source | None:
    """The image that the request starts from, opened, or None. Raises RequestError for what cannot be."""
    if request.init is None:
        for name, default in DEFAULTS.items():
            if getattr(request, name) != default:
                raise RequestError(f"{name}: got {getattr(request, name)!r} without an init; give the image to change")
        return None
    if "vae_encoder" not in manifest.components:
        raise RequestError(f"init: {manifest.name} has no vae_encoder; export it anew with `latentrt export`")
    strength = STRENGTH if request.strength is None else request.strength
    return Source(
        open_image("init", request.init),
        number("strength", strength, 0, 1),
        choice("fit", request.fit, FITS),
        choice("posterior", request.posterior, POSTERIORS),
    )


def drawn(mean: Array, deviation: Array, noise: Array | None, batch: int) -> Array:
    """Latents of each image, (batch, channels, rows, columns): the mean, or with noise a draw from the posterior."""
    return np.repeat(mean, batch, axis=0) if noise is None else mean + deviation * noise


def noised(latents: Array, noise: Array, sigma: float) -> Array:
    """Clean latents with as much of `noise` as they hold at `sigma`; float32, unit variance, their shape."""
    mixed: Array = alpha(sigma) * latents + spread(sigma) * noise
    return mixed
