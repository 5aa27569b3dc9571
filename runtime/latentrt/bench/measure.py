"""Times whole requests of a real pipeline, one after the other.

An engine's call takes and returns NumPy arrays, so its time includes kernels and copies, on a GPU too. Order: loading,
warm-ups, timed samples. The state of the system is read before the first sample and after each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from latentrt.bench import memory
from latentrt.bench.audit import BLOCK, BLOCKS, run_audit
from latentrt.bench.energy import Energy, Meter, idle_watts, metered
from latentrt.bench.loading import OpenPipeline, empty_disk_cache, timed_load, warm_loads
from latentrt.bench.preflight import report_settings
from latentrt.bench.report import Case, Loading, Sample, statistics_of
from latentrt.bench.sample import request_at, time_request
from latentrt.bench.system import Conditions, conditions, read_moment
from latentrt.bench.verdict import reasons_of
from latentrt.bundle.folder import Bundle
from latentrt.device.nvml import Nvml, NvmlError
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.request import Request

WARM_LOADS = 3

Advance = Callable[[], None]


@dataclass(frozen=True)
class BenchPlan:
    """Number of requests of a case. runs: timed. warmups: before them; the first one is reported by itself."""

    runs: int = 10
    warmups: int = 2
    audit: bool = False

    @property
    def requests(self) -> int:
        """The number of all requests, those of the audit included."""
        return self.runs + self.warmups + (self.runs + BLOCKS * (2 * BLOCK + 1) if self.audit else 0)


@dataclass(frozen=True)
class Instruments:
    """Sources that are read while requests run: energy meters, and NVIDIA's library if there is a GPU."""

    meters: Sequence[Meter] = ()
    gpu: Nvml | None = None

    @property
    def gpu_bytes(self) -> int | None:
        """Used bytes of the GPU's memory; None if unknown."""
        try:
            return self.gpu.used_bytes if self.gpu else None
        except NvmlError:
            return None


def measure(
    open_pipeline: OpenPipeline,
    bundle: Bundle,
    request: Request,
    plan: BenchPlan,
    instruments: Instruments,
    advance: Advance = lambda: None,
) -> Case:
    """Times the request, with a new seed for each sample, and returns the case.

    open_pipeline: opens a new pipeline for the bundle. request: must have a seed. advance: called after every request.
    Raises RequestError for an invalid request, EngineError if an engine fails or memory runs out.
    """
    idle = idle_watts(instruments.meters)
    was_reset, before, gpu_before = memory.reset_peak(), memory.resident(), instruments.gpu_bytes
    emptied = empty_disk_cache(bundle)
    pipeline, prepared, cold = timed_load(open_pipeline, request)
    loaded, estimated = memory.resident(), prepared.plan.peak_bytes if prepared.plan else None
    with pipeline:
        first = warm_up(pipeline, request, plan, advance)
        samples, energies, during = time_requests(pipeline, request, plan, instruments, advance)
        peak, gpu_after = memory.peak() if was_reset else None, instruments.gpu_bytes
        audit = run_audit(pipeline, open_pipeline, request, samples, advance) if plan.audit else None
    gpu_used = None if gpu_before is None or gpu_after is None else gpu_after - gpu_before
    case = Case(
        settings=report_settings(pipeline, prepared),
        warmups=plan.warmups,
        loading=Loading(emptied, cold, warm_loads(open_pipeline, request, WARM_LOADS)),
        first=first,
        samples=samples,
        statistics=statistics_of(samples),
        memory=memory.Memory(before, loaded, peak, gpu_used, estimated),
        energy=tuple(
            energy_per_picture(*pair, plan.runs * prepared.demand.images) for pair in zip(energies, idle, strict=True)
        ),
        conditions=during,
        audit=audit,
        reasons=(),
    )
    return replace(case, reasons=reasons_of(case))


def warm_up(pipeline: Pipeline, request: Request, plan: BenchPlan, advance: Advance) -> Sample:
    """Runs the warm-ups and returns the first one. Their seeds follow those of the timed samples."""
    found = []
    for index in range(plan.runs, plan.runs + plan.warmups):
        found.append(time_request(pipeline, request_at(request, index)))
        advance()
    return found[0]


def time_requests(
    pipeline: Pipeline, request: Request, plan: BenchPlan, instruments: Instruments, advance: Advance
) -> tuple[tuple[Sample, ...], list[Energy], Conditions]:
    """The timed samples, the energy of each meter, and the conditions of the machine meanwhile."""
    samples, moments = [], [read_moment(gpu=instruments.gpu)]
    with collected_warnings() as warnings, metered(instruments.meters) as energies:
        for index in range(plan.runs):
            samples.append(time_request(pipeline, request_at(request, index)))
            moments.append(read_moment(gpu=instruments.gpu))
            advance()
    return tuple(samples), energies, conditions(moments, warnings)


def energy_per_picture(energy: Energy, idle: float | None, pictures: int) -> Energy:
    """The energy of a source with its idle power and the joules per picture."""
    return replace(energy, idle_watts=idle, per_picture_j=None if energy.joules is None else energy.joules / pictures)


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Yields a list that collects the warnings this package logs in the block."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("latentrt")
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
