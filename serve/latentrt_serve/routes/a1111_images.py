"""AUTOMATIC1111's fields of an image: the one to start from, and its mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from latentrt.bundle.manifest import Manifest
from latentrt.errors import RequestError
from latentrt.images.load import open_image
from latentrt.images.mask import WHITE
from latentrt.images.pillow import filled
from latentrt.validate import or_default, shown
from latentrt_serve.inputs import image_of
from latentrt_serve.limits import Limits
from latentrt_serve.refusal import Refusal
from latentrt_serve.routes.a1111_fields import HARMLESS_IMAGE, IMAGE, Body, flag, read, real, refuse, whole

if TYPE_CHECKING:
    from PIL.Image import Image

FILLED = 2  # the resize mode that keeps the image's proportions, and fills the border with its outermost pixels
BLUR = 4.0
STRENGTH = 0.75


def image_fields(body: Body, manifest: Manifest, limits: Limits) -> dict[str, Any]:
    """The fields of a request for those of img2img that belong to the image.

    Where AUTOMATIC1111's defaults are not latentrt's, they are its own: strength 0.75, and with a mask a blur of 4 and
    only the part around the mask, without padding. Raises RequestError, and Refusal for no image.
    """
    given = {name: value for name, value in body.items() if value is not None}
    refuse(given, HARMLESS_IMAGE)
    image = init_of(given.get("init_images"), limits)
    mask = mask_of(given, image, limits) if given.get("mask") else None
    sides = [whole(name, given[name]) for name in ("width", "height") if given.get(name)]
    if whole("resize_mode", given.get("resize_mode", 0)) == FILLED and len(sides) == 2:
        limits.check_pixels(sides[0] * sides[1])
        image = filled(image, *sides)
        mask = mask and filled(mask, *sides)
    found = {"strength": STRENGTH, **read(given, IMAGE), "init": image}
    if not manifest.extra_channels:
        found.pop("image_guidance", None)  # of models that edit by instructions alone
    return found if mask is None else {**found, **mask_fields(given), "mask": mask}


def init_of(images: Any, limits: Limits) -> Image:
    """The image to start from. Raises Refusal for none, RequestError for several."""
    if not images:
        raise Refusal(404, "no_image", "init_images: got none, expected a list with one image", param="init_images")
    if not isinstance(images, list) or len(images) != 1:
        raise RequestError(f"init_images: got {shown(images)}, expected a list with one image")
    return open_image("init_images", image_of("init_images", images[0], limits.image_pixels))


def mask_of(given: Body, image: Image, limits: Limits) -> Image:
    """The mask at the image's size, white where it is painted anew; of a picture with transparency, what is opaque."""
    from PIL import ImageOps

    mask = image_of("mask", given["mask"], limits.image_pixels)
    if mask.mode == "RGBA" and mask.getchannel("A").getextrema() != (255, 255):
        mask = mask.getchannel("A").point([255 * (level >= WHITE) for level in range(256)])
    grey = open_image("mask", mask, "L")
    if flag("inpainting_mask_invert", given.get("inpainting_mask_invert", False)):
        grey = ImageOps.invert(grey)
    return grey if grey.size == image.size else grey.resize(image.size)


def mask_fields(given: Body) -> dict[str, Any]:
    """The fields of a request that say how the mask is used."""
    blurs = {real(name, given[name]) for name in ("mask_blur_x", "mask_blur_y") if name in given} or {BLUR}
    if len(blurs) > 1 and "mask_blur" not in given:
        raise RequestError("mask_blur_x: got another blur than mask_blur_y, expected the same")
    blur = real("mask_blur", or_default(given.get("mask_blur"), min(blurs)))
    around = flag("inpaint_full_res", given.get("inpaint_full_res", True))
    padding = whole("inpaint_full_res_padding", given.get("inpaint_full_res_padding", 0))
    return {"mask_blur": blur, "overlay": True, **({"mask_padding": padding} if around else {})}
