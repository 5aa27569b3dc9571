"""What operators ask: whether the server lives, whether it takes jobs, and what it measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from latentrt.version import VERSION
from latentrt_serve.schemas import answers_of
from latentrt_serve.server import Server, server_of

router = APIRouter(tags=["Operations"])


@router.get("/health/live")
def live() -> dict[str, str]:
    """Says that the process answers."""
    return {"status": "live", "version": VERSION}


@router.get("/health/ready")
def ready(server: Annotated[Server, Depends(server_of)]) -> Response:
    """Says whether the server takes jobs; status 503 while it stops."""
    taking = server.room.open
    return JSONResponse({"status": "ready" if taking else "draining"}, 200 if taking else 503)


@router.get("/metrics", response_class=Response, responses=answers_of("text/plain"))
def metrics(server: Annotated[Server, Depends(server_of)]) -> Response:
    """Counters, queue and memory, in Prometheus' text format."""
    room = server.room
    room.measures.waiting.set(len(room.queue))
    room.measures.running.set(len(room.running))
    room.measures.memory.set(sum(model.bytes for model in room.shelf.loaded()))
    room.measures.resident.set(resident_bytes())
    return Response(generate_latest(room.measures.registry), media_type=CONTENT_TYPE_LATEST)


def resident_bytes() -> int:
    """The memory of this process; 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return 0
    import resource

    return int(pages) * resource.getpagesize()


@router.get("/v1/capabilities")
def capabilities(server: Annotated[Server, Depends(server_of)]) -> dict[str, Any]:
    """The models with what they can do and their defaults, and the limits of this server."""
    limits, room = server.limits, server.room
    return {
        "models": [described(model) for model in room.shelf.models.values()],
        "limits": {**vars(limits), "queue": room.queue.places, "batch": room.shelf.options.batch},
        "version": VERSION,
    }


def described(model: Any) -> dict[str, Any]:
    """A model in JSON."""
    manifest = model.bundle.manifest
    defaults = manifest.defaults
    return {
        "id": model.name,
        "name": manifest.name,
        "family": manifest.family,
        "tasks": list(manifest.tasks),
        "loaded": model.pipeline is not None,
        "bytes": model.bytes,
        "sha256": model.bundle.sha256,
        "multiple": manifest.latents.pixel_multiple,
        "prompt": manifest.text is not None,
        "classes": manifest.classes.count if manifest.classes else None,
        "controls": list(manifest.controls),
        "defaults": {
            "sampler": defaults.sampler,
            "sigmas": defaults.sigmas,
            "steps": defaults.steps,
            "guidance": defaults.guidance,
            "width": defaults.width,
            "height": defaults.height,
        },
    }
