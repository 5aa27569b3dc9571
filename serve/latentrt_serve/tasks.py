"""The tasks of jobs: how an order is carried out on a loaded model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import Any

from latentrt.pipeline.inpaint import cropped
from latentrt.pipeline.metadata import picture_text, texts_of
from latentrt.pipeline.pipeline import Pipeline
from latentrt.pipeline.upscale import upscale
from latentrt.request.request import Request
from latentrt.request.rows import changed
from latentrt_serve.job import Job, Pictures, Task

# A block in which the denoiser is called again and again.
Denoising = Callable[[], AbstractContextManager[None]]


def generated(pipeline: Pipeline, job: Job, denoising: Denoising) -> Pictures:
    """The pictures of a request."""
    run = pipeline.steps(job.order.request)
    with denoising():
        for _ in range(run.total):
            job.advance(next(run))
    deque(run, maxlen=0)
    result = run.result if job.order.size is None else cropped(run.result, job.order.size)
    provenance = result.provenance()
    texts = tuple(picture_text(result.settings, number, provenance) for number in range(len(result.images)))
    return Pictures(result.images, texts, dict(result.timings))


def enlarged(pipeline: Pipeline, job: Job, _denoising: Denoising) -> Pictures:
    """The enlarged picture of a request's init."""
    order, options = job.order, given(job.order.request)
    image = options.pop("init")
    found = upscale(pipeline, image, tile=order.tile, times=order.times, progress=job.count, **options)
    return Pictures((found.image,), (texts_of(found.record()),), dict(found.result.timings))


def given(request: Request) -> dict[str, Any]:
    """The fields of a request that are not at their default."""
    return {one.name: getattr(request, one.name) for one in fields(Request) if changed(request, one.name)}


TASKS: Mapping[Task, Callable[[Pipeline, Job, Denoising], Pictures]] = {"generate": generated, "upscale": enlarged}
