"""The picture's width and height."""

from __future__ import annotations

from collections.abc import Sequence

from latentrt.bundle.manifest import Manifest
from latentrt.bundle.sources import LOW_RESOLUTION
from latentrt.errors import RequestError
from latentrt.request.controls import ResolvedControl
from latentrt.request.denoising_range import DenoisingRange
from latentrt.request.init_image import InitImage
from latentrt.request.request import Request
from latentrt.validate import or_default, side

Size = tuple[int, int]


def resolve_size(request: Request, manifest: Manifest, followed: tuple[str, Size] | None) -> Size:
    """Width and height in pixels: those of the request, else those of `followed`, cut to multiples, else the bundle's.

    followed: the name and the size of the image that the picture follows. Raises RequestError.
    """
    defaults, multiple = manifest.defaults, manifest.latents.pixel_multiple
    requested, usual = (request.width, request.height), (defaults.width, defaults.height)
    if followed is not None and None in requested:
        usual = cut(*followed, multiple, requested)
    width, height = (
        side(name, or_default(one, other), multiple)
        for name, one, other in zip(("width", "height"), requested, usual, strict=True)
    )
    return width, height


def followed_size(
    init_image: InitImage | None, part: DenoisingRange, controls: Sequence[ResolvedControl], manifest: Manifest
) -> tuple[str, Size] | None:
    """The name and size of what the picture's size follows: the init image, latents, or a control of the same size.

    A super-resolution model makes a latent of each pixel of the init image.
    """
    pixels = manifest.latents.factor
    if init_image and LOW_RESOLUTION in manifest.extra_channels:
        width, height = init_image.image.size
        return f"init, {pixels} times enlarged", (width * pixels, height * pixels)
    if init_image:
        return ("init", init_image.image.size) if init_image.is_whole else None
    if (size := part.size(pixels)) is not None:
        return "latents", size
    return next(((f"control {one.name}", one.image.size) for one in controls if one.side is None), None)


def cut(name: str, size: Size, multiple: int, requested: tuple[int | None, int | None] = (None, None)) -> Size:
    """An image's sides, cut down to multiples. Raises RequestError, which begins with `name`, for less than one.

    requested: the sides that are given, for which the image may have any.
    """
    width, height = (own - own % multiple for own in size)
    if any(given is None and not left for given, left in zip(requested, (width, height), strict=True)):
        got = "x".join(map(str, size))
        raise RequestError(f"{name}: got an image of {got} pixels, expected at least {multiple}x{multiple}, or a size")
    return width, height
