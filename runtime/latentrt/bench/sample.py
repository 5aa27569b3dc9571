"""Timing of one request, from prompt to pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from latentrt.bench.report import Sample
from latentrt.bundle.sources import DENOISERS
from latentrt.pipeline import timings
from latentrt.pipeline.pipeline import Pipeline
from latentrt.pipeline.result import Result
from latentrt.request.request import Request

# The phases of each part of a step. Reports name the denoiser "unet", whatever kind it is.
STEPWISE = {"unet": (*DENOISERS, "unet_shallow"), "sampler": ("sampler",)}


def time_request(pipeline: Pipeline, request: Request) -> Sample:
    """Runs a request and returns its times, from parsing its prompt to its last picture."""
    start = timings.clock()
    run = pipeline.steps(request)
    totals: list[Mapping[str, float]] = [{}]
    for _ in run:
        totals.append({part: sum(run.timings.get(one, 0.0) for one in phases) for part, phases in STEPWISE.items()})
    result = run.result
    total = timings.clock() - start
    unet, sampler = (
        tuple(after[part] - before.get(part, 0.0) for before, after in zip(totals, totals[1:], strict=False))
        for part in STEPWISE
    )
    phases = {"unet" if one in DENOISERS else one: spent for one, spent in result.timings.items()}
    return Sample(result.seeds[0], total, phases, unet, sampler, digests(result))


def digests(result: Result) -> tuple[str, ...]:
    """The SHA-256 of each picture's pixels."""
    return tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in result.images)


def request_at(request: Request, index: int) -> Request:
    """The request at an index of a series, in which no two pictures have the same seed. Needs a request with a seed."""
    assert request.seed is not None
    return replace(request, seed=request.seed + index * request.batch)
