"""The init image: brought to size, and the steps that a run takes from it.

A run of strength 0.75 takes the last three quarters of its steps: the grid starts later, samplers know nothing of it.
The steps taken, the resizing of the image and the noise on its latents are those of diffusers 0.42.1's
StableDiffusionImg2ImgPipeline.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.bundle.manifest import Manifest
from latentrt.errors import RequestError
from latentrt.images.load import open_image
from latentrt.images.mask import WHITE, Mask
from latentrt.images.pillow import Fit, digest, extended, filled, resized, to_pixels
from latentrt.request.request import LARGEST_PIXELS, Request
from latentrt.request.rows import checked, refuse_without
from latentrt.sampling.start_latents import Posterior
from latentrt.tensors import Array
from latentrt.validate import is_list, shown, whole

if TYPE_CHECKING:
    from PIL.Image import Image

STRENGTH = 0.8


@dataclass(frozen=True)
class InitImage:
    """The image to start from, RGB and extended already; see `Request` for the rest.

    rounds_up: whether a part of a step counts as one, as in diffusers 0.42.1's pipelines of flow models. shown: whether
    its latents are a reference too, as in its Flux2KleinInpaintPipeline.
    """

    image: Image = field(repr=False)
    strength: float = STRENGTH
    fit: Fit = "stretch"
    posterior: Posterior = "mean"
    mask: Mask | None = None
    extend: tuple[int, ...] | None = None
    rounds_up: bool = False
    shown: bool = False

    @property
    def is_whole(self) -> bool:
        """True where all of the image is generated, at its size; False for the surroundings of a mask alone."""
        return self.mask is None or self.mask.padding is None

    def skipped(self, steps: int) -> int:
        """The number of steps at the front that are not taken. Raises RequestError where none would be left."""
        return skipped_steps(steps, self.strength, rounds_up=self.rounds_up)

    def pixels(self, width: int, height: int) -> Array:
        """The image at that size: (1, 3, height, width) float32 in [-1, 1]."""
        return to_pixels(self.fit_to(self.image, width, height))

    def pixel_mask(self, width: int, height: int) -> Array | None:
        """The pixels that are generated anew at that size, (1, 1, height, width) bool; None for all."""
        if self.mask is None:
            return None
        white: Array = np.asarray(self.fit_to(self.mask.image, width, height)) >= WHITE
        return white[np.newaxis, np.newaxis]

    def latent_mask(self, width: int, height: int, pixels: int) -> Array | None:
        """The latents that are generated anew, (1, 1, rows, columns) bool; None for all. pixels: per latent and side.

        That is decided at the first pixel of each, as in diffusers.
        """
        white = self.pixel_mask(width, height)
        return None if white is None else white[..., ::pixels, ::pixels]

    def fit_to(self, image: Image, width: int, height: int) -> Image:
        """The image, or the part of it that is painted, at that size."""
        box = self.mask.region(width, height) if self.mask else None
        return filled(image.crop(box), width, height) if box else resized(image, width, height, self.fit)

    def paste_back(self, image: Image) -> Image:
        """The picture from what was generated."""
        return self.mask.pasted(self.fit_to, self.image, image) if self.mask else image

    def original(self) -> Image:
        """The image as it was before it was extended."""
        left, top, right, bottom = self.extend or (0, 0, 0, 0)
        return self.image.crop((left, top, self.image.width - right, self.image.height - bottom))

    def record(self) -> dict[str, Any]:
        """The fields of the request that make this again; images by their hash."""
        return {
            "strength": self.strength,
            "fit": self.fit,
            "posterior": self.posterior,
            "init": digest(self.original()),
            **({"extend": self.extend} if self.extend else {}),
            **(self.mask.record() if self.mask else {}),
        }


def resolve_init_image(request: Request, manifest: Manifest) -> InitImage | None:
    """The request's init image, opened, or None. Raises RequestError."""
    if request.init is None:
        if manifest.upscales:
            raise RequestError(f"init: got none, but {manifest.name} upscales a picture; give one (--init)")
        refuse_without("init", request)
        return None
    if "vae_encoder" not in manifest.components and not manifest.upscales:
        raise RequestError(f"init: {manifest.name} has no vae_encoder; export it anew with `latentrt export`")
    # A UNet that is shown the image needs no more of it to start from.
    usual = 1.0 if manifest.extra_channels else STRENGTH
    image, extend = open_image("init", request.init), extend_of(request)
    mask = mask_of(request, image, extend, manifest.defaults.overlay)
    return InitImage(
        extended(image, extend) if extend else image,
        checked(request, "strength", usual),
        checked(request, "fit"),
        checked(request, "posterior"),
        mask,
        extend,
        rounds_up=manifest.noise_schedule.prediction == "flow_prediction",
        shown=manifest.takes_references and mask is not None,
    )


def extend_of(request: Request) -> tuple[int, ...] | None:
    """Pixels that extend the image at its four sides. Raises RequestError for anything but four numbers."""
    sides = request.extend
    if sides is None:
        return None
    if not is_list(sides) or len(sides) != 4 or not any(sides):
        raise RequestError(
            f"extend: got {shown(sides)}, expected pixels at the left, top, right and bottom, not all zero"
        )
    return tuple(whole("extend", pixels, 0, LARGEST_PIXELS) for pixels in sides)


def mask_of(request: Request, init: Image, extend: tuple[int, ...] | None, overlay: bool) -> Mask | None:
    """The request's mask, opened and blurred, or None. Raises RequestError for one that does not fit the image."""
    from PIL import Image as images
    from PIL.ImageFilter import GaussianBlur

    if request.mask is None and extend is None:
        refuse_without("mask", request)
        return None
    blur = checked(request, "mask_blur")
    padding = None if request.mask_padding is None else checked(request, "mask_padding")
    image = images.new("L", init.size) if request.mask is None else open_image("mask", request.mask, "L")
    if image.size != init.size:
        sizes = ["x".join(map(str, one.size)) for one in (image, init)]
        raise RequestError(f"mask: got {sizes[0]} pixels, expected {sizes[1]}, the size of the init")
    image = extended(image, extend, 255) if extend else image
    blurred = image.filter(GaussianBlur(blur)) if blur else image
    if np.asarray(blurred).max() < WHITE:
        raise RequestError("mask: got nothing white in it, expected white where the image is to be painted anew")
    return Mask(blurred, blur, padding, checked(request, "overlay") or overlay, request.mask is not None)


def skipped_steps(steps: int, strength: float, name: str = "strength", *, rounds_up: bool = False) -> int:
    """The number of steps at the front that are not taken. Raises RequestError where none would be left.

    rounds_up: whether a part of a step counts as one.
    """
    share = min(steps * strength, steps)
    taken = steps - int(steps - share) if rounds_up and share else int(share)
    if not taken:
        raise RequestError(
            f"{name}: got {strength:g} with {steps} steps, which leaves none of them; expected at least "
            f"{1 / steps:.3g}, or more steps"
        )
    return steps - taken
