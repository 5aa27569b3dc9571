"""The image that a run starts from: brought to size, made latents, and noised to the level of the first step.

A run of strength 0.75 takes the last three quarters of its steps: the grid starts later, samplers know nothing of it.
Which steps those are, how the image is resized and how its latents are noised is as in diffusers 0.42.1's
StableDiffusionImg2ImgPipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from latentrt.bundle.manifest import Manifest
from latentrt.errors import RequestError
from latentrt.images.load import open_image
from latentrt.images.mask import WHITE, Mask
from latentrt.images.pillow import Fit, digest, extended, filled, resized, to_pixels
from latentrt.request.request import Request
from latentrt.sampling.start_latents import Posterior
from latentrt.tensors import Array
from latentrt.validate import choice, flag, number, shown, whole

if TYPE_CHECKING:
    from PIL.Image import Image

FITS: tuple[Fit, ...] = get_args(Fit)
POSTERIORS: tuple[Posterior, ...] = get_args(Posterior)
STRENGTH = 0.8
DEFAULTS: dict[str, object] = {
    "strength": None,
    "fit": "stretch",
    "posterior": "mean",
    "mask": None,
    "extend": None,
    "image_guidance": None,
}
MASK_DEFAULTS: dict[str, object] = {"mask_blur": 0.0, "mask_padding": None, "overlay": False}
LARGEST_BLUR = LARGEST_PADDING = LARGEST_EXTENSION = 4096


@dataclass(frozen=True)
class Source:
    """The image, RGB and extended already, and how a run starts from it; see `Request`."""

    image: Image = field(repr=False)
    strength: float = STRENGTH
    fit: Fit = "stretch"
    posterior: Posterior = "mean"
    mask: Mask | None = None
    extend: tuple[int, ...] | None = None

    @property
    def whole(self) -> bool:
        """Whether all of the image is painted, and the picture has its size; not where a part of it is."""
        return self.mask is None or self.mask.padding is None

    def skipped(self, steps: int) -> int:
        """How many of the steps are not taken. Raises RequestError where none would be left."""
        return skipped(steps, self.strength)

    def pixels(self, width: int, height: int) -> Array:
        """The image at that size: (1, 3, height, width) float32 in [-1, 1]."""
        return to_pixels(self.framed(self.image, width, height))

    def white(self, width: int, height: int) -> Array | None:
        """Which pixels are painted at that size, (1, 1, height, width) bool; None where all are."""
        if self.mask is None:
            return None
        white: Array = np.asarray(self.framed(self.mask.image, width, height)) >= WHITE
        return white[np.newaxis, np.newaxis]

    def masked(self, width: int, height: int, pixels: int) -> Array | None:
        """Which latents are painted, (1, 1, rows, columns) bool; None where all are. pixels: a side of one latent.

        That is decided at the first pixel of each, as in diffusers.
        """
        white = self.white(width, height)
        return None if white is None else white[..., ::pixels, ::pixels]

    def framed(self, image: Image, width: int, height: int) -> Image:
        """The image, or the part of it that is painted, at that size."""
        box = self.mask.region(width, height) if self.mask else None
        return filled(image.crop(box), width, height) if box else resized(image, width, height, self.fit)

    def finished(self, image: Image) -> Image:
        """The picture from what was generated."""
        return self.mask.pasted(self.framed, self.image, image) if self.mask else image

    def given(self) -> Image:
        """The image as it was before it was extended."""
        left, top, right, bottom = self.extend or (0, 0, 0, 0)
        return self.image.crop((left, top, self.image.width - right, self.image.height - bottom))

    def record(self) -> dict[str, Any]:
        """What a picture says of how it was started, as JSON can hold it; of the image, what tells it from others."""
        return {
            "strength": self.strength,
            "fit": self.fit,
            "posterior": self.posterior,
            "init": digest(self.given()),
            **({"extend": self.extend} if self.extend else {}),
            **(self.mask.record() if self.mask else {}),
        }


def cut(
    name: str, size: tuple[int, int], multiple: int, asked: tuple[int | None, int | None] = (None, None)
) -> tuple[int, int]:
    """An image's sides, cut down to multiples. Raises RequestError, which begins with `name`, for less than one.

    asked: the sides that are given, for which the image may be of any.
    """
    width, height = (own - own % multiple for own in size)
    if any(given is None and not left for given, left in zip(asked, (width, height), strict=True)):
        got = "x".join(map(str, size))
        raise RequestError(f"{name}: got an image of {got} pixels, expected at least {multiple}x{multiple}, or a size")
    return width, height


def source_of(request: Request, manifest: Manifest) -> Source | None:
    """The image that the request starts from, opened, or None. Raises RequestError for what cannot be."""
    if request.init is None:
        refuse_without("init", DEFAULTS | MASK_DEFAULTS, request)
        return None
    if "vae_encoder" not in manifest.components:
        raise RequestError(f"init: {manifest.name} has no vae_encoder; export it anew with `latentrt export`")
    # A UNet that is shown the image needs no more of it to start from.
    usual = 1.0 if manifest.extra_channels else STRENGTH
    strength = usual if request.strength is None else request.strength
    image, extend = open_image("init", request.init), extend_of(request)
    return Source(
        extended(image, extend) if extend else image,
        number("strength", strength, 0, 1),
        choice("fit", request.fit, FITS),
        choice("posterior", request.posterior, POSTERIORS),
        mask_of(request, image, extend),
        extend,
    )


def extend_of(request: Request) -> tuple[int, ...] | None:
    """How far the image is extended at its four sides. Raises RequestError for what is no such numbers."""
    asked = request.extend
    if asked is None:
        return None
    if isinstance(asked, str) or not isinstance(asked, Sequence) or len(asked) != 4 or not any(asked):
        raise RequestError(
            f"extend: got {shown(asked)}, expected pixels at the left, top, right and bottom, not all zero"
        )
    return tuple(whole("extend", pixels, 0, LARGEST_EXTENSION) for pixels in asked)


def mask_of(request: Request, init: Image, extend: tuple[int, ...] | None) -> Mask | None:
    """The request's mask, opened and blurred, or None. Raises RequestError for one that does not fit the image."""
    from PIL import Image as images
    from PIL.ImageFilter import GaussianBlur

    if request.mask is None and extend is None:
        refuse_without("mask", MASK_DEFAULTS, request)
        return None
    blur = number("mask_blur", request.mask_blur, 0, LARGEST_BLUR)
    padding = request.mask_padding
    padding = None if padding is None else whole("mask_padding", padding, 0, LARGEST_PADDING)
    image = images.new("L", init.size) if request.mask is None else open_image("mask", request.mask, "L")
    if image.size != init.size:
        sizes = ["x".join(map(str, one.size)) for one in (image, init)]
        raise RequestError(f"mask: got {sizes[0]} pixels, expected {sizes[1]}, the size of the init")
    image = extended(image, extend, 255) if extend else image
    blurred = image.filter(GaussianBlur(blur)) if blur else image
    if np.asarray(blurred).max() < WHITE:
        raise RequestError("mask: got nothing white in it, expected white where the image is to be painted anew")
    return Mask(blurred, blur, padding, flag("overlay", request.overlay), request.mask is not None)


def refuse_without(needed: str, defaults: Mapping[str, object], request: Request) -> None:
    """Raises RequestError where one of `defaults` is not at its own, though the image that it is for was not given."""
    for name, default in defaults.items():
        got = getattr(request, name)
        if got is not default and (default is None or got != default):  # an image may be an array, equal to nothing
            raise RequestError(f"{name}: got {shown(got)} without {needed}; give that image too")


def skipped(steps: int, strength: float, name: str = "strength") -> int:
    """How many of the steps are not taken, those at the front. Raises RequestError where none would be left."""
    taken = min(int(steps * strength), steps)
    if not taken:
        raise RequestError(
            f"{name}: got {strength:g} with {steps} steps, which leaves none of them; expected at least "
            f"{1 / steps:.3g}, or more steps"
        )
    return steps - taken
