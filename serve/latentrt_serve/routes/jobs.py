"""Jobs of our own: submitted, watched, cancelled, and their pictures fetched for a while."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header
from fastapi import Request as HttpRequest
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse

from latentrt_serve.encode import KINDS, TYPES, base64_of, encoded
from latentrt_serve.events import HEADERS, event_text
from latentrt_serve.fields import order_of
from latentrt_serve.job import ENDED, Job
from latentrt_serve.refusal import Refusal
from latentrt_serve.schemas import answers_of, body_of, job_schema
from latentrt_serve.server import Server, client_of, server_of
from latentrt_serve.waiting import events_of

router = APIRouter(prefix="/v1/jobs", tags=["Jobs"])


@router.post("", status_code=202, openapi_extra=body_of(job_schema()))
async def submit(
    http: HttpRequest,
    body: Annotated[dict[str, Any], Body()],
    server: Annotated[Server, Depends(server_of)],
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> Response:
    """Puts a job into the queue. The same `Idempotency-Key` with the same body gives the same job again."""
    client = client_of(http)
    known = server.store.found(client, idempotency_key, body) if idempotency_key else None
    if known is None:
        model = server.room.shelf.find(body.get("model"))
        order = await run_in_threadpool(order_of, {**body, "model": None}, model, server.limits, client)
        known = server.room.submit(order)
        server.store.keep(known, client, idempotency_key, body)
    return JSONResponse(described(known, server), 202, headers={"Location": f"/v1/jobs/{known.id}"})


@router.get("/{job_id}")
def job(job_id: str, server: Annotated[Server, Depends(server_of)]) -> dict[str, Any]:
    """The state of a job."""
    return described(server.store.find(job_id), server)


@router.get("/{job_id}/events", response_class=StreamingResponse, responses=answers_of("text/event-stream"))
async def events(job_id: str, server: Annotated[Server, Depends(server_of)]) -> StreamingResponse:
    """What happens to a job, as server-sent events: queued, started, step, preview, and one of its ends."""
    texts = stream(server.store.find(job_id), server)
    return StreamingResponse(texts, media_type="text/event-stream", headers=HEADERS)


async def stream(job: Job, server: Server) -> AsyncIterator[str]:
    """The events of a job as text. Nothing is cancelled when nobody watches."""
    state = job.state
    yield event_text(state, described(job, server))
    if state in ENDED:
        return
    async for event in events_of(job):
        data: Mapping[str, Any] = event.data
        if event.image is not None:
            data = {**data, "b64_json": base64_of(await run_in_threadpool(encoded, event.image))}
        yield event_text(event.kind, described(job, server) if event.kind == job.state else data)


@router.get("/{job_id}/pictures/{number}", response_class=Response, responses=answers_of(*TYPES.values()))
async def picture(
    job_id: str, number: int, server: Annotated[Server, Depends(server_of)], format: str = "png"
) -> Response:
    """One picture of a finished job, as a file with its settings inside."""
    found = server.store.find(job_id)
    if format not in KINDS:
        raise Refusal(400, "invalid_value", f"format: got {format!r}, expected {' or '.join(KINDS)}", param="format")
    if found.pictures is None or not 0 <= number < len(found.pictures.images):
        raise Refusal(404, "no_picture", f"job {job_id}: it is {found.state} and has no picture {number}")
    image, text = found.pictures.images[number], found.pictures.texts[number]
    return Response(await run_in_threadpool(encoded, image, format, text), media_type=TYPES[format])


@router.delete("/{job_id}")
def cancel(job_id: str, server: Annotated[Server, Depends(server_of)]) -> dict[str, Any]:
    """Cancels a job: at once if it waits, within one step if it runs. A job that has ended stays as it is."""
    found = server.store.find(job_id)
    server.room.cancel(found)
    return described(found, server)


def described(job: Job, server: Server) -> dict[str, Any]:
    """The state of a job in JSON."""
    settings = job.order.settings
    pictures = len(job.pictures.images) if job.pictures else 0
    return {
        "id": job.id,
        "state": job.state,
        "model": job.order.model,
        "task": job.order.task,
        "place": server.room.place(job) if job.state == "queued" else None,
        "step": job.step,
        "steps": job.total,
        "seeds": list(settings.seeds),
        "created": job.created,
        "started": job.started,
        "completed": job.completed,
        "pictures": [f"/v1/jobs/{job.id}/pictures/{number}" for number in range(pictures)],
        "error": {"code": job.refusal.code, "message": job.refusal.message} if job.refusal else None,
    }
