"""One request, timed as a user would wait for it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from latentrt.bench.report import Sample
from latentrt.pipeline import timings
from latentrt.pipeline.pipeline import Pipeline
from latentrt.pipeline.result import Result
from latentrt.request.request import Request

STEPWISE = ("unet", "sampler")


def sampled(pipeline: Pipeline, request: Request) -> Sample:
    """Returns the request's times, from before its prompt is read until its pictures are there."""
    start = timings.clock()
    run = pipeline.steps(request)
    seen: list[Mapping[str, float]] = [{}]
    for _ in run:
        seen.append({phase: run.timings.get(phase, 0.0) for phase in STEPWISE})
    result = run.result
    total = timings.clock() - start
    unet, sampler = (
        tuple(after[phase] - before.get(phase, 0.0) for before, after in zip(seen, seen[1:], strict=False))
        for phase in STEPWISE
    )
    return Sample(result.seeds[0], total, dict(result.timings), unet, sampler, digests(result))


def digests(result: Result) -> tuple[str, ...]:
    """The SHA-256 of each picture's pixels."""
    return tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in result.images)


def numbered(request: Request, place: int) -> Request:
    """The request at a place in a series, whose pictures no other place has; its seed is given."""
    assert request.seed is not None
    return replace(request, seed=request.seed + place * request.batch)
