"""Inpainting of pictures of any size: padded by reflection, cropped, and put back outside the mask."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentrt.bundle.manifest import Manifest
from latentrt.errors import RequestError
from latentrt.images.load import open_image
from latentrt.images.pillow import reflected
from latentrt.pipeline.result import Result
from latentrt.request.request import Request
from latentrt.validate import shown

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentrt.pipeline.pipeline import Pipeline

TASK = "inpainting"
# Fields of a request that are made here of the picture and the mask.
REFUSED = ("init", "mask", "width", "height", "overlay", "extend", "mask_padding", "hires")


def inpaint(pipeline: Pipeline, image: str | Path | Image, mask: str | Path | Image, **options: Any) -> Result:
    """Returns the picture with the white part of the mask painted anew; all other pixels stay as they are.

    image: a picture or its file, of any size and mode. mask: another one of the same size. options: those of `Request`,
    such as prompt, steps, strength, seed, batch; strength is 1 by default. Raises RequestError for a bundle that does
    not inpaint and for what does not fit; else as `Pipeline.steps`.

    >>> inpaint(pipe, "photo.jpg", "hole.png", seed=1).save("whole.png")  # doctest: +SKIP
    """
    picture = open_image("image", image)
    run = pipeline.steps(inpainting_request(pipeline.bundle.manifest, picture, mask, **options))
    deque(run, maxlen=0)
    return cropped(run.result, picture.size)


def inpainting_request(manifest: Manifest, picture: Image, mask: str | Path | Image, **options: Any) -> Request:
    """The request of `inpaint`, of a size that the model draws; `cropped` gives the picture's. Raises as it does."""
    if TASK not in manifest.tasks:
        raise RequestError(
            f"bundle: got {manifest.name}, whose tasks are {', '.join(manifest.tasks)}; expected {TASK}: a bundle with "
            "a VAE encoder"
        )
    for name in (name for name in REFUSED if name in options):
        raise RequestError(f"{name}: got {shown(options[name])}, expected options such as prompt, steps or seed")
    hole = open_image("mask", mask, "L")
    if picture.size != hole.size:
        sizes = ["x".join(map(str, one.size)) for one in (hole, picture)]
        raise RequestError(f"mask: got {sizes[0]} pixels, expected {sizes[1]}, the size of the picture")
    padded = reflected(picture, manifest.latents.pixel_multiple)
    request = {
        "strength": 1.0,
        **options,
        "init": padded,
        "mask": extended_mask(hole, padded.size),
        "overlay": True,
    }
    return Request(**request)


def cropped(result: Result, size: tuple[int, int]) -> Result:
    """The result with its images cropped to the size of the picture that was painted on."""
    return replace(result, images=tuple(one.crop((0, 0, *size)) for one in result.images))


def extended_mask(mask: Image, size: tuple[int, int]) -> Image:
    """The mask at a larger size; what lies beyond it is kept."""
    from PIL import Image as images

    canvas = images.new("L", size)
    canvas.paste(mask, (0, 0))
    return canvas
