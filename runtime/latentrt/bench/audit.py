"""Whether an engine does the work that is timed: the ideas of MLPerf's compliance tests TEST01 and TEST04.

TEST01: what was made while the clock ran equals what is made when it does not. Here a new pipeline makes the pictures
again, last first, and each has to be the same to the bit. TEST04: a sample that was just seen may not be faster than a
new one, or results are cached. Here a request repeated is held against requests of new prompts and seeds, in turn.
(mlcommons/inference, compliance/.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count

from latentrt.bench.loading import Open
from latentrt.bench.report import TOTAL, Audit, Sample
from latentrt.bench.sample import digests, numbered, sampled
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.request import Request

BLOCK, BLOCKS = 4, 2
SHARE = 0.05  # of a request's time; a phase that takes less does not matter, and hardly can be told

Advance = Callable[[], None]


def audited(pipeline: Pipeline, opening: Open, request: Request, samples: Sequence[Sample], advance: Advance) -> Audit:
    """Returns what both tests found. pipeline: what was timed. opening: opens a new one."""
    repeated = ratios(*in_turn(pipeline, request, advance))
    pipeline.close()  # one in memory at a time
    with opening() as fresh:
        different = tuple(remade(fresh, request, samples, advance))
    return Audit(sum(len(sample.pictures) for sample in samples), different, repeated)


def remade(fresh: Pipeline, request: Request, samples: Sequence[Sample], advance: Advance) -> Iterable[int]:
    """The seeds of the samples whose pictures are not the same when they are made again, last first."""
    for sample in reversed(samples):
        run = fresh.steps(replace(request, seed=sample.seed))
        for _ in run:
            pass
        advance()
        if digests(run.result) != sample.pictures:
            yield sample.seed


def in_turn(pipeline: Pipeline, request: Request, advance: Advance) -> tuple[list[Sample], list[Sample]]:
    """Samples of one request again and again, its first of each block left out, and of new ones."""
    places = count(1)
    same: list[Sample] = []
    new: list[Sample] = []
    for _ in range(BLOCKS):
        for repeat in range(BLOCK + 1):
            sample = sampled(pipeline, altered(request, 0))
            advance()
            if repeat:
                same.append(sample)
        for _ in range(BLOCK):
            new.append(sampled(pipeline, altered(request, next(places))))
            advance()
    return same, new


def altered(request: Request, place: int) -> Request:
    """The request with another prompt of the same length, and another seed."""
    return replace(numbered(request, place), prompt=f"{request.prompt} {place}")


def ratios(same: Sequence[Sample], new: Sequence[Sample]) -> dict[str, float]:
    """For each phase that matters, and for all, the least time of the first samples over that of the second.

    The least, since other processes can only add to a time: a busy machine is no cache.
    """
    whole = min(sample.total for sample in new)
    found = {TOTAL: min(sample.total for sample in same) / whole}
    for phase in new[0].phases:
        taken = min(sample.phases[phase] for sample in new)
        if taken >= SHARE * whole:
            found[phase] = min(sample.phases[phase] for sample in same) / taken
    return found
