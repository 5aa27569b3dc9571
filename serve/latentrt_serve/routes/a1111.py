"""AUTOMATIC1111's interface to pictures: txt2img, img2img, their progress and their interruption."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from fastapi import Request as HttpRequest
from fastapi.concurrency import run_in_threadpool

from latentrt.errors import RequestError
from latentrt.pipeline.result import Step
from latentrt_serve.fields import order_of
from latentrt_serve.job import Event, Job, Order, Pictures
from latentrt_serve.refusal import Refusal
from latentrt_serve.routes.a1111_answers import answer, progress_of
from latentrt_serve.routes.a1111_fields import fields_of, flag, overrides_of, pasted_model, refused
from latentrt_serve.routes.a1111_images import image_fields
from latentrt_serve.routes.a1111_options import MODEL, model_named
from latentrt_serve.routes.a1111_schemas import IMG2IMG, TXT2IMG
from latentrt_serve.schemas import A1111_ERROR, body_of, refusals
from latentrt_serve.server import Server, client_of, server_of
from latentrt_serve.shelf import Model
from latentrt_serve.waiting import CLIENT_CLOSED, pictures_of

router = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"], responses=refusals(A1111_ERROR))

Json = Annotated[dict[str, Any], Body()]
Served = Annotated[Server, Depends(server_of)]


@router.post("/txt2img", openapi_extra=body_of(TXT2IMG))
async def txt2img(http: HttpRequest, body: Json, server: Served) -> dict[str, Any]:
    """Pictures of a prompt."""
    return await answered(body, http, server, with_image=False)


@router.post("/img2img", openapi_extra=body_of(IMG2IMG))
async def img2img(http: HttpRequest, body: Json, server: Served) -> dict[str, Any]:
    """Pictures made of an image; with `mask`, whose white part is painted anew."""
    return await answered(body, http, server, with_image=True)


async def answered(body: Mapping[str, Any], http: HttpRequest, server: Server, *, with_image: bool) -> dict[str, Any]:
    """The answer to an order. An interrupted one has the pictures as they were."""
    client = client_of(http)
    try:
        model = model_of(body, client, server)
        order = await run_in_threadpool(ordered, body, model, client, server, with_image)
    except RequestError as error:
        raise refused(error) from error
    job = server.room.submit(order)
    steps = deque[Step](maxlen=1)

    def listener(_event: Event) -> None:
        if job.latest is not None:
            steps.append(job.latest)

    job.listen(listener)
    try:
        pictures = await pictures_of(job, server.room, http)
    except Refusal as refusal:
        if refusal.status != CLIENT_CLOSED:
            raise
        pictures = await run_in_threadpool(unfinished, job, list(steps))
    return await run_in_threadpool(answer, body, job, pictures, model.bundle)


def model_of(body: Mapping[str, Any], client: str, server: Server) -> Model:
    """The model of a request: the one it overrides the options with, else that of a pasted text, else the options'."""
    given = {name: value for name, value in body.items() if value is not None}
    overrides, shelf = overrides_of(given), server.room.shelf
    if overrides.get(MODEL):
        found = model_named(overrides[MODEL], shelf)
        if not flag("override_settings_restore_afterwards", given.get("override_settings_restore_afterwards", True)):
            server.options.change(client, {MODEL: found.name})
        return found
    name = pasted_model(given)
    return shelf.find(name if name in shelf.models else server.options.of(client).get(MODEL))


def ordered(body: Mapping[str, Any], model: Model, client: str, server: Server, with_image: bool) -> Order:
    """The order of a request. Raises RequestError and Refusal."""
    manifest = model.bundle.manifest
    options = {name: value for name, value in server.options.of(client).items() if name != MODEL}
    body = {**body, "override_settings": {**options, **overrides_of({**body})}} if options else body
    fields = fields_of(body, manifest)
    if with_image:
        fields = {**fields, **image_fields(body, manifest, server.limits)}
    return order_of(fields, model, server.limits, client)


def unfinished(job: Job, steps: list[Step]) -> Pictures:
    """The pictures of an interrupted job, as they were after its last step. Raises Refusal if there was none."""
    if not steps:
        raise Refusal(409, "interrupted", "the request was interrupted before its first step")
    settings = job.order.settings
    previews = (steps[-1].preview(number) for number in range(len(settings.seeds)))
    images = tuple(one.resize((settings.width, settings.height)) for one in previews)
    return Pictures(images, tuple({} for _ in images), {})


def running(http: HttpRequest, server: Server) -> Job | None:
    """The client's job that runs; the one that began first of several."""
    client = client_of(http)
    return next((job for job in list(server.room.running) if job.order.client == client), None)


@router.get("/progress")
def progress(http: HttpRequest, server: Served, skip_current_image: bool = False) -> dict[str, Any]:
    """The progress of the client's job, with a preview of its picture."""
    return progress_of(running(http, server), image=not skip_current_image)


@router.post("/interrupt")
def interrupt(http: HttpRequest, server: Served) -> dict[str, Any]:
    """Ends the client's job within one step."""
    job = running(http, server)
    if job is not None:
        server.room.cancel(job)
    return {}


@router.post("/skip")
def skip(http: HttpRequest, server: Served) -> dict[str, Any]:
    """Ends the client's job within one step: all pictures of a request are made at once, so none is left to go on."""
    return interrupt(http, server)
