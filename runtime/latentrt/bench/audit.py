"""Audit of an engine, after MLPerf's compliance tests TEST01 and TEST04 (mlcommons/inference, compliance/).

TEST01: timed and untimed runs give the same results. Here a new pipeline generates the pictures again, in reverse
order; every bit must be equal. TEST04: a repeated request is not faster than a new one, so nothing is cached. Here one
request is timed several times, in turn with requests that have new prompts and seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count

from latentrt.bench.loading import OpenPipeline
from latentrt.bench.report import TOTAL, Audit, Sample
from latentrt.bench.sample import digests, request_at, time_request
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.request import Request

BLOCK, BLOCKS = 4, 2
LEAST_SHARE = 0.05  # of a request's time; shorter phases are not compared: they hardly matter and vary too much

Advance = Callable[[], None]


def run_audit(
    pipeline: Pipeline, open_pipeline: OpenPipeline, request: Request, samples: Sequence[Sample], advance: Advance
) -> Audit:
    """Returns the results of both tests. pipeline: the timed one; it is closed. open_pipeline: opens a new one."""
    repeated = least_time_ratios(*repeated_and_new(pipeline, request, advance))
    pipeline.close()  # one in memory at a time
    with open_pipeline() as fresh:
        different = tuple(changed_seeds(fresh, request, samples, advance))
    return Audit(sum(len(sample.pictures) for sample in samples), different, repeated)


def changed_seeds(fresh: Pipeline, request: Request, samples: Sequence[Sample], advance: Advance) -> Iterable[int]:
    """Seeds of the samples whose pictures differ when they are generated again, in reverse order."""
    for sample in reversed(samples):
        run = fresh.steps(replace(request, seed=sample.seed))
        for _ in run:
            pass
        advance()
        if digests(run.result) != sample.pictures:
            yield sample.seed


def repeated_and_new(pipeline: Pipeline, request: Request, advance: Advance) -> tuple[list[Sample], list[Sample]]:
    """Samples of one repeated request, without the first of each block, and of new requests."""
    indices = count(1)
    same: list[Sample] = []
    new: list[Sample] = []
    for _ in range(BLOCKS):
        for repeat in range(BLOCK + 1):
            sample = time_request(pipeline, with_new_prompt(request, 0))
            advance()
            if repeat:
                same.append(sample)
        for _ in range(BLOCK):
            new.append(time_request(pipeline, with_new_prompt(request, next(indices))))
            advance()
    return same, new


def with_new_prompt(request: Request, index: int) -> Request:
    """The request with another prompt of about the same length, if it has one, and another seed."""
    return replace(request_at(request, index), prompt=f"{request.prompt} {index}" if request.prompt else "")


def least_time_ratios(same: Sequence[Sample], new: Sequence[Sample]) -> dict[str, float]:
    """The least time of `same` over the least time of `new`, for the total and for each phase that is not too short.

    Least times, because other processes can only add to a time: a busy machine must not look like a cache.
    """
    total = min(sample.total for sample in new)
    found = {TOTAL: min(sample.total for sample in same) / total}
    for phase in new[0].phases:
        least = min(sample.phases[phase] for sample in new)
        if least >= LEAST_SHARE * total:
            found[phase] = min(sample.phases[phase] for sample in same) / least
    return found
