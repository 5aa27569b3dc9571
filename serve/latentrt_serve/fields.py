"""Requests in JSON: every field of `latentrt.Request` by its name, images and arrays in a form that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from latentrt.bundle.manifest import Manifest
from latentrt.errors import RequestError
from latentrt.images.load import open_image
from latentrt.images.pillow import reflected
from latentrt.pipeline.inpaint import inpainting_request
from latentrt.pipeline.prepare import read_prompts
from latentrt.pipeline.upscale import REFUSED, tile_of
from latentrt.request.control import Control
from latentrt.request.request import Request
from latentrt.request.rows import rows_of
from latentrt.request.settings import resolve
from latentrt.validate import or_default, shown, whole
from latentrt_serve.inputs import image_of
from latentrt_serve.job import Order
from latentrt_serve.limits import Limits
from latentrt_serve.shelf import Model
from latentrt_serve.tasks import given

ROWS = rows_of(Request)
# Fields that hold what JSON cannot: they are for programs that call the library itself.
PYTHON = ("latents", "start", "end")
IMAGES = tuple(name for name, one in ROWS.items() if one.metavar == "IMG")
FIELDS = tuple(name for name in ROWS if name not in PYTHON)
OWN = ("model", "task", "previews", "tile", "times")
MOST_PREVIEWS = 20


def request_of(body: Mapping[str, Any], limits: Limits) -> Request:
    """The request that a JSON object states. Raises RequestError for fields that do not exist and for wrong values."""
    for name in body.keys() - set(FIELDS):
        raise RequestError(f"{name}: got a field that does not exist; expected of {', '.join(FIELDS)}")
    known = {name: value_of(name, value, limits) for name, value in body.items() if value is not None}
    return Request(**{"prompt": "", **known})


def value_of(name: str, value: Any, limits: Limits) -> Any:
    """A field's value as the library takes it."""
    if name in IMAGES and not isinstance(value, Image.Image):  # an uploaded file is an image already
        return image_of(name, value, limits.image_pixels)
    if name == "vectors":
        return vectors_of(value)
    if name == "layout" and not isinstance(value, list):
        raise RequestError(f"layout: got {shown(value)}, expected a list of boxes")
    if name == "references":
        return references_of(value, limits)
    return controls_of(value, limits) if name == "controls" else value


def references_of(value: Any, limits: Limits) -> list[Image.Image]:
    """Reference images, each as a field that holds one image."""
    if not isinstance(value, list):
        raise RequestError(f"references: got {shown(value)}, expected a list of images")
    return [image_of(f"reference {place}", one, limits.image_pixels) for place, one in enumerate(value, start=1)]


def vectors_of(value: Any) -> Any:
    """Lists of numbers as an array."""
    try:
        return np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise RequestError(f"vectors: got {shown(value)}, expected lists of numbers of equal lengths") from error


def controls_of(value: Any, limits: Limits) -> list[Control]:
    """Controls, each an object with the fields of `latentrt.Control`."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise RequestError(f"controls: got {shown(value)}, expected a list of objects with name and image")
    found = []
    for one in value:
        if missing := {"name", "image"} - one.keys():
            raise RequestError(f"controls: got no {', '.join(sorted(missing))}, expected name and image in each")
        if unknown := one.keys() - {"name", "image", "scale", "start", "end"}:
            raise RequestError(f"controls: got {', '.join(sorted(unknown))}, expected name, image, scale, start, end")
        found.append(Control(**{**one, "image": image_of("controls", one["image"], limits.image_pixels)}))
    return found


def order_of(body: Mapping[str, Any], model: Model, limits: Limits, client: str = "") -> Order:
    """The order that a JSON object states: the fields of a request, and `task`, `previews`, `tile` and `times`.

    Raises RequestError for what cannot be run, a malformed prompt included, or is more than the limits allow.
    """
    more = {name: body[name] for name in OWN if body.get(name) is not None}
    request = request_of({name: value for name, value in body.items() if name not in OWN}, limits)
    task = more.get("task", "generate")
    if task not in TASKS:
        raise RequestError(f"task: got {shown(task)}, expected one of {', '.join(TASKS)}")
    for name in {"tile", "times"} & more.keys() if task != "upscale" else ():
        raise RequestError(f"{name}: got it with the task {task}, expected it with upscale")
    previews = whole("previews", more.get("previews", 0), 0, MOST_PREVIEWS)
    limits.check_sizes(request)
    order = MAKERS[task](request, model.bundle.manifest, more, limits)
    limits.check(order.settings)
    read_prompts(model.tokenizer, order.settings)
    return replace(order, model=model.name, client=client, previews=previews)


def generate_order(request: Request, manifest: Manifest, _more: Mapping[str, Any], _limits: Limits) -> Order:
    """The order of a request as it is."""
    return Order("", request, resolve(request, manifest))


def inpaint_order(request: Request, manifest: Manifest, _more: Mapping[str, Any], _limits: Limits) -> Order:
    """The order that paints the masked part of an image of any size."""
    options = given(request)
    picture, mask = options.pop("init", None), options.pop("mask", None)
    if picture is None or mask is None:
        raise RequestError("mask: got no init or no mask, expected both for the task inpaint")
    picture = open_image("init", picture)
    whole_request = inpainting_request(manifest, picture, mask, **options)
    return Order("", whole_request, resolve(whole_request, manifest), size=picture.size)


def upscale_order(request: Request, manifest: Manifest, more: Mapping[str, Any], limits: Limits) -> Order:
    """The order that enlarges an image of any size."""
    tile = tile_of(more.get("tile"), manifest)
    times = whole("times", or_default(more.get("times"), 1), 1, 4)
    options = given(request)
    if request.init is None:
        raise RequestError("init: got no image, expected one for the task upscale")
    for name in (name for name in REFUSED if name in options and name != "init"):
        raise RequestError(f"{name}: got {shown(options[name])}, expected options such as steps, sampler or seed")
    picture, factor = open_image("init", request.init), manifest.latents.factor
    limits.check_pixels(picture.width * picture.height * factor ** (2 * times))
    last = reflected(picture.resize([side * factor ** (times - 1) for side in picture.size]), manifest.latents.multiple)
    return Order("", request, resolve(replace(request, init=last), manifest), task="upscale", tile=tile, times=times)


MAKERS = {"generate": generate_order, "upscale": upscale_order, "inpaint": inpaint_order}
TASKS = tuple(MAKERS)  # in which any value may be looked for, a list too
