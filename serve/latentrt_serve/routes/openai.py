"""OpenAI's interface to pictures: generations, edits, and the list of models.

Fields beyond OpenAI's are those of `latentrt.Request`, and the usual names of other servers for some of them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from fastapi import Request as HttpRequest
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.datastructures import UploadFile

from latentrt.errors import RequestError
from latentrt_serve.encode import base64_of, encoded, files_of
from latentrt_serve.events import HEADERS, event_text
from latentrt_serve.fields import FIELDS, order_of
from latentrt_serve.inputs import decoded_image
from latentrt_serve.job import ENDED, Event, Job, Order, Pictures
from latentrt_serve.refusal import refusal_of
from latentrt_serve.routes.openai_fields import (
    ALIASES,
    FORMATS,
    IGNORED,
    MOST_PARTIAL,
    OWN,
    edit_schema,
    generation_schema,
)
from latentrt_serve.schemas import answers_of, body_of
from latentrt_serve.server import Server, client_of, server_of
from latentrt_serve.waiting import events_of, finished, pictures_of

router = APIRouter(prefix="/v1", tags=["OpenAI"])


MOST_DIGITS = 10
STREAM = answers_of("application/json", "text/event-stream")


class Wish:
    """What OpenAI's fields ask for, and the body of the order."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        known = {name: value for name, value in body.items() if value is not None and name not in IGNORED}
        self.stream = flag_of("stream", known.get("stream", False))
        self.partial = number_of("partial_images", known.get("partial_images", 0), MOST_PARTIAL)
        self.format = word_of("output_format", known.get("output_format", "png"), FORMATS)
        quality = known.get("output_compression")
        self.quality = None if quality is None else number_of("output_compression", quality, 100)
        self.model = known.get("model")
        word_of("response_format", known.get("response_format", "b64_json"), ("b64_json",))
        fields = {ALIASES.get(name, name): value for name, value in known.items() if name not in OWN}
        for name in fields.keys() - set(FIELDS):
            raise RequestError(f"{name}: got a field that does not exist; expected OpenAI's, or {', '.join(FIELDS)}")
        self.body = {**fields, **size_of(known.get("size", "auto"))}


def flag_of(name: str, value: Any) -> bool:
    """True or False, as JSON or as a form has it."""
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return bool(value == "true")
    raise RequestError(f"{name}: got {value!r}, expected true or false")


def number_of(name: str, value: Any, highest: int) -> int:
    """A whole number from 0, as JSON or as a form has it."""
    if isinstance(value, str) and value.isdecimal() and len(value) < MOST_DIGITS:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= highest:
        raise RequestError(f"{name}: got {value!r}, expected a whole number from 0 to {highest}")
    return value


def word_of(name: str, value: Any, words: tuple[str, ...]) -> str:
    """One of some words."""
    if value not in words:
        raise RequestError(f"{name}: got {value!r}, expected {' or '.join(words)}")
    return str(value)


def size_of(value: Any) -> dict[str, int]:
    """Width and height of a size, `256x128`; nothing for auto."""
    if value == "auto":
        return {}
    sides = value.split("x") if isinstance(value, str) else ()
    if len(sides) != 2 or not all(side.isascii() and side.isdecimal() and len(side) < 6 for side in sides):
        raise RequestError(f"size: got {value!r}, expected WIDTHxHEIGHT, for example 512x512, or auto")
    return {"width": int(sides[0]), "height": int(sides[1])}


@router.post("/images/generations", openapi_extra=body_of(generation_schema()), responses=STREAM)
async def generations(
    http: HttpRequest, body: Annotated[dict[str, Any], Body()], server: Annotated[Server, Depends(server_of)]
) -> Response:
    """Pictures of a prompt; with `stream`, previews as they come."""
    wish = Wish(body)
    return await answered(wish, wish.body, http, server, "image_generation")


@router.post("/images/edits", openapi_extra=body_of(edit_schema(), "multipart/form-data"), responses=STREAM)
async def edits(http: HttpRequest, server: Annotated[Server, Depends(server_of)]) -> Response:
    """Pictures made of an image; with `mask`, whose transparent part is painted anew."""
    async with http.form() as form:  # which closes the files
        files = [(name.removesuffix("[]"), one) for name, one in form.multi_items() if isinstance(one, UploadFile)]
        texts = {name.removesuffix("[]"): one for name, one in form.multi_items() if isinstance(one, str)}
        images = [await read_image(name, one, server) for name, one in files if name == "image"]
        masks = [await read_image(name, one, server) for name, one in files if name == "mask"]
    wish = Wish({name: read_text(name, text) for name, text in texts.items()})
    if len(images) != 1 or len(masks) > 1:
        raise RequestError(
            f"image: got {len(images)} images and {len(masks)} masks, expected one image and at most one mask"
        )
    return await answered(wish, {**wish.body, **edited(images[0], *masks)}, http, server, "image_edit")


def read_text(name: str, text: str) -> Any:
    """The value of a form's text: a number for the fields that hold one."""
    field = ALIASES.get(name, name)
    if field in ("prompt", "negative", "blend", "size", "model") or not text:
        return text
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return {"true": True, "false": False}.get(text, text)


async def read_image(name: str, file: UploadFile, server: Server) -> Any:
    """The image of an uploaded file."""
    data = await file.read()
    return await run_in_threadpool(decoded_image, name, data, server.limits.image_pixels)


def edited(image: Any, mask: Any = None) -> dict[str, Any]:
    """The fields of the request for an image and a mask; OpenAI's mask is transparent where it is painted anew."""
    if mask is None:
        return {"init": image.convert("RGB")}
    hole = mask.getchannel("A").point([255 - level for level in range(256)]) if mask.mode in ("RGBA", "LA") else mask
    return {"init": image.convert("RGB"), "mask": hole.convert("L"), "task": "inpaint"}


async def answered(wish: Wish, body: Mapping[str, Any], http: HttpRequest, server: Server, event: str) -> Response:
    """The answer to an order: its pictures, or a stream of events."""
    model = server.room.shelf.find(wish.model)
    previews = wish.partial if wish.stream else 0
    order: Order = await run_in_threadpool(
        order_of, {**body, "previews": previews}, model, server.limits, client_of(http)
    )
    job = server.room.submit(order)
    if wish.stream:
        texts = stream(job, wish, server, event)
        return StreamingResponse(texts, media_type="text/event-stream", headers=HEADERS)
    pictures = await pictures_of(job, server.room, http)
    files = await run_in_threadpool(files_of, pictures, wish.format, wish.quality)
    return JSONResponse(
        {
            "created": int(job.created),
            "data": [{"b64_json": base64_of(one)} for one in files],
            "seeds": list(order.settings.seeds),
            **described(job, wish),
            "usage": usage_of(job),
        }
    )


async def stream(job: Job, wish: Wish, server: Server, event: str) -> AsyncIterator[str]:
    """The events of a job as OpenAI names them. A client that goes away cancels it."""
    try:
        async for one in events_of(job):
            if one.kind == "preview" and one.image is not None:
                yield event_text(f"{event}.partial_image", await run_in_threadpool(partial, one, job, wish, event))
            elif one.kind in ENDED:
                try:
                    pictures = finished(job)
                except Exception as error:
                    refusal = refusal_of(error)
                    yield event_text("error", {"type": "error", "error": error_of(refusal)})
                    return
                for data in await run_in_threadpool(completed, pictures, job, wish, event):
                    yield event_text(f"{event}.completed", data)
    finally:
        if not job.ended.is_set():
            server.room.cancel(job)


def partial(event: Event, job: Job, wish: Wish, name: str) -> dict[str, Any]:
    """The data of a preview: at the picture's size, from the first picture of several."""
    assert event.image is not None
    settings = job.order.settings
    image = event.image.resize((settings.width, settings.height))
    return {
        "type": f"{name}.partial_image",
        "b64_json": base64_of(encoded(image, wish.format, quality=wish.quality)),
        "partial_image_index": event.data["index"],
        "created_at": int(time.time()),
        **described(job, wish),
    }


def completed(pictures: Pictures, job: Job, wish: Wish, name: str) -> list[dict[str, Any]]:
    """The data of each finished picture."""
    return [
        {
            "type": f"{name}.completed",
            "b64_json": base64_of(file),
            "created_at": int(time.time()),
            "seed": seed,
            **described(job, wish),
            "usage": usage_of(job),
        }
        for file, seed in zip(files_of(pictures, wish.format, wish.quality), job.order.settings.seeds, strict=True)
    ]


def described(job: Job, wish: Wish) -> dict[str, Any]:
    """What OpenAI's answers say of the pictures."""
    width, height = job.order.size or (job.order.settings.width, job.order.settings.height)
    return {"background": "opaque", "output_format": wish.format, "quality": "high", "size": f"{width}x{height}"}


def usage_of(job: Job) -> dict[str, Any]:
    """The usage of a job: no tokens are counted here, so all are 0."""
    none = {"text_tokens": 0, "image_tokens": 0}
    return {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0, "input_tokens_details": none}


def error_of(refusal: Any) -> dict[str, Any]:
    """A refusal in OpenAI's shape."""
    return {"message": refusal.message, "type": refusal.kind, "param": refusal.param, "code": refusal.code}


@router.get("/models")
def models(server: Annotated[Server, Depends(server_of)]) -> dict[str, Any]:
    """The models, in OpenAI's shape."""
    return {"object": "list", "data": [entry(name) for name in server.room.shelf.models]}


@router.get("/models/{name}")
def model(name: str, server: Annotated[Server, Depends(server_of)]) -> dict[str, Any]:
    """One model."""
    return entry(server.room.shelf.find(name).name)


def entry(name: str) -> dict[str, Any]:
    """A model in OpenAI's shape."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "latentrt"}
