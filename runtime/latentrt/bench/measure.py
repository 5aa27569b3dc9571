"""Times requests as a user makes them: a real pipeline, one request after another, nothing left out.

An engine's call takes arrays from NumPy and gives NumPy the result, so its time by the clock holds copies and kernels
alike, on a GPU too. Loads come first, then a first picture and other warm-ups, then the samples; moments of the system
are taken between them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from latentrt.bench import memory
from latentrt.bench.audit import BLOCK, BLOCKS, audited
from latentrt.bench.energy import Energy, Meter, idle_watts, metered
from latentrt.bench.loading import Open, empty_disk_cache, load, load_again
from latentrt.bench.preflight import report_settings
from latentrt.bench.report import Case, Loading, Sample, statistics_of
from latentrt.bench.sample import numbered, sampled
from latentrt.bench.system import Conditions, conditions, look
from latentrt.bench.verdict import reasons_of
from latentrt.bundle.folder import Bundle
from latentrt.device.nvml import Nvml, NvmlError
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.request import Request

WARM_LOADS = 3

Advance = Callable[[], None]


@dataclass(frozen=True)
class Plan:
    """How a case is measured. runs: timed requests. warmups: those before, of which the first is kept apart."""

    runs: int = 10
    warmups: int = 2
    audit: bool = False

    @property
    def requests(self) -> int:
        """How many requests that makes."""
        return self.runs + self.warmups + (self.runs + BLOCKS * (2 * BLOCK + 1) if self.audit else 0)


@dataclass(frozen=True)
class Instruments:
    """What is read while requests run: energy meters, and NVIDIA's library where there is a GPU."""

    meters: Sequence[Meter] = ()
    gpu: Nvml | None = None

    @property
    def gpu_bytes(self) -> int | None:
        """What the GPU's memory is filled by now."""
        try:
            return self.gpu.used_bytes if self.gpu else None
        except NvmlError:
            return None


def measure(
    opening: Open,
    bundle: Bundle,
    request: Request,
    plan: Plan,
    instruments: Instruments,
    advance: Advance = lambda: None,
) -> Case:
    """Returns a case: the request with its own seed, then with others, each new.

    opening: opens a new pipeline for the bundle. request: with a seed. advance: called after every request.
    Raises RequestError for what cannot be generated, EngineError when an engine fails or memory is too little.
    """
    idle = idle_watts(instruments.meters)
    restarted, before, gpu_before = memory.restart_peak(), memory.resident(), instruments.gpu_bytes
    emptied = empty_disk_cache(bundle)
    pipeline, prepared, cold = load(opening, request)
    loaded, reckoned = memory.resident(), prepared.plan.peak_bytes if prepared.plan else None
    with pipeline:
        first = warm_up(pipeline, request, plan, advance)
        samples, spent, around = timed(pipeline, request, plan, instruments, advance)
        peak, gpu_after = memory.peak() if restarted else None, instruments.gpu_bytes
        audit = audited(pipeline, opening, request, samples, advance) if plan.audit else None
    filled = None if gpu_before is None or gpu_after is None else gpu_after - gpu_before
    case = Case(
        settings=report_settings(pipeline, prepared),
        warmups=plan.warmups,
        loading=Loading(emptied, cold, load_again(opening, request, WARM_LOADS)),
        first=first,
        samples=samples,
        statistics=statistics_of(samples),
        memory=memory.Memory(before, loaded, peak, filled, reckoned),
        energy=tuple(shared(*pair, plan.runs * prepared.demand.images) for pair in zip(spent, idle, strict=True)),
        conditions=around,
        audit=audit,
        reasons=(),
    )
    return replace(case, reasons=reasons_of(case))


def warm_up(pipeline: Pipeline, request: Request, plan: Plan, advance: Advance) -> Sample:
    """The first request of all, after which others warm up the rest; none has the seed of a sample."""
    found = []
    for place in range(plan.runs, plan.runs + plan.warmups):
        found.append(sampled(pipeline, numbered(request, place)))
        advance()
    return found[0]


def timed(
    pipeline: Pipeline, request: Request, plan: Plan, instruments: Instruments, advance: Advance
) -> tuple[tuple[Sample, ...], list[Energy], Conditions]:
    """The samples, what they took of energy, and how the machine was meanwhile."""
    samples, moments = [], [look(gpu=instruments.gpu)]
    with collected_warnings() as warnings, metered(instruments.meters) as spent:
        for place in range(plan.runs):
            samples.append(sampled(pipeline, numbered(request, place)))
            moments.append(look(gpu=instruments.gpu))
            advance()
    return tuple(samples), spent, conditions(moments, warnings)


def shared(energy: Energy, idle: float | None, pictures: int) -> Energy:
    """What a source counted, shared out among the pictures."""
    return replace(energy, idle_watts=idle, per_picture_j=None if energy.joules is None else energy.joules / pictures)


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Gives a list that has every warning that this package logs in the block."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("latentrt")
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
