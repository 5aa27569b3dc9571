"""Requests of a series of pictures, and their check before any picture is generated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from latentrt.bundle.manifest import Manifest
from latentrt.errors import RequestError
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.request import Request
from latentrt_calib.recording.conditions import condition_fields
from latentrt_calib.recording.inits import chosen, init_fields
from latentrt_calib.recording.subjects import subject_fields


def requests_for(
    manifest: Manifest, subjects: Sequence[str], seed: int, inits: Sequence[str] = (), **options: Any
) -> tuple[Request, ...]:
    """One request per subject, as the model takes them; picture k has the seed seed + k.

    inits: files of pictures for a model that is shown one; drawn pictures without. options: any other fields.
    """
    size = tuple(options.get(name) or getattr(manifest.defaults, name) for name in ("width", "height"))
    found = []
    for index, subject in enumerate(subjects):
        shown = init_fields(manifest, seed + index, chosen(inits, index), (size[0], size[1]))
        condition = condition_fields(manifest, seed + index, (size[0], size[1]))
        fields = {**subject_fields(manifest, subject), **shown, **condition, "seed": seed + index, **options}
        found.append(Request(**fields))
    return tuple(found)


def check_requests(pipeline: Pipeline, requests: Sequence[Request]) -> None:
    """Raises RequestError for the first request that cannot be generated, with its number and subject."""
    for number, request in enumerate(requests, 1):
        try:
            pipeline.steps(request)
        except RequestError as error:
            raise RequestError(f"{subject_named(request, number)}: {error}") from error


def subject_named(request: Request, number: int) -> str:
    """The subject of the request at a number of a series, for messages."""
    if request.class_label is not None:
        return f"class {number}, {request.class_label!r}"
    return f"prompt {number}, {request.prompt!r}" if request.prompt else f"picture {number}"
