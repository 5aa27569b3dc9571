"""The picture's width and height."""

from __future__ import annotations

from collections.abc import Sequence

from latentrt.bundle.manifest import Latents, Manifest
from latentrt.errors import RequestError
from latentrt.request.controls import ResolvedControl
from latentrt.request.denoising_range import DenoisingRange
from latentrt.request.init_image import InitImage
from latentrt.request.request import Request
from latentrt.validate import or_default, side

Size = tuple[int, int]
INIT = "init"


def resolve_size(request: Request, manifest: Manifest, followed: tuple[str, Size] | None) -> Size:
    """Width and height in pixels: those of the request, else those of `followed`, cut to multiples, else the bundle's.

    A super-resolution model's picture has those of the init image times the factor, and nothing is cut. followed: the
    name and the size of the image that the picture follows. Raises RequestError.
    """
    defaults, multiple = manifest.defaults, manifest.latents.pixel_multiple
    requested, usual = (request.width, request.height), (defaults.width, defaults.height)
    if followed is not None and None in requested:
        name, size = followed
        upscaled = name == INIT and manifest.upscales
        usual = enlarged_size(size, requested, manifest.latents) if upscaled else cut(name, size, multiple, requested)
    width, height = (
        side(name, or_default(one, other), multiple)
        for name, one, other in zip(("width", "height"), requested, usual, strict=True)
    )
    return width, height


def followed_size(
    init_image: InitImage | None, part: DenoisingRange, controls: Sequence[ResolvedControl], pixels: int
) -> tuple[str, Size] | None:
    """The name and size of what the picture's size follows: the init image, latents, or a control of the same size."""
    if init_image:
        return (INIT, init_image.image.size) if init_image.is_whole else None
    if (size := part.size(pixels)) is not None:
        return "latents", size
    return next(((f"control {one.name}", one.image.size) for one in controls if one.side is None), None)


def enlarged_size(size: Size, requested: tuple[int | None, int | None], latents: Latents) -> Size:
    """The size of an image after super-resolution: a latent per pixel. Raises RequestError for sides that do not fit.

    requested: the sides that are given, for which the image may have any.
    """
    multiple = latents.multiple
    if any(given is None and own % multiple for given, own in zip(requested, size, strict=True)):
        lower = tuple(own // multiple * multiple for own in size)
        upper = tuple(-(-own // multiple) * multiple for own in size)
        near = [one for one in dict.fromkeys((lower, upper)) if all(one)]
        raise RequestError(
            f"init: got an image of {text_of(size)} pixels, expected sides that are multiples of {multiple}, the "
            f"nearest: {' or '.join(map(text_of, near))}; `latentrt upscale` takes any size"
        )
    width, height = (own * latents.factor for own in size)
    return width, height


def text_of(size: Sequence[int]) -> str:
    """A size as text: 64x48."""
    return "x".join(map(str, size))


def cut(name: str, size: Size, multiple: int, requested: tuple[int | None, int | None] = (None, None)) -> Size:
    """An image's sides, cut down to multiples. Raises RequestError, which begins with `name`, for less than one.

    requested: the sides that are given, for which the image may have any.
    """
    width, height = (own - own % multiple for own in size)
    if any(given is None and not left for given, left in zip(requested, (width, height), strict=True)):
        raise RequestError(
            f"{name}: got an image of {text_of(size)} pixels, expected at least {multiple}x{multiple}, or a size"
        )
    return width, height
