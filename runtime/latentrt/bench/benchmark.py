"""A benchmark from its options to its report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

from latentrt.bench.machine import machine
from latentrt.bench.measure import BenchPlan, Instruments, measure
from latentrt.bench.meters import find_meters
from latentrt.bench.report import FORMAT, Report, subject_of
from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import open_bundle
from latentrt.device.nvml import open_nvml
from latentrt.engines import AUTO, choose, engine_kind
from latentrt.errors import RequestError
from latentrt.pipeline.load import completed, load
from latentrt.pipeline.prepare import prepare
from latentrt.request.request import Request

MOST = 100_000


@dataclass(frozen=True)
class Sweep:
    """Settings that are varied: every combination is a case, sizes outermost. None is the bundle's default."""

    sizes: Sequence[tuple[int, int] | None] = (None,)
    batches: Sequence[int] = (1,)
    steps: Sequence[int | None] = (None,)

    def cases(self, request: Request) -> list[Request]:
        """The request in every combination."""
        return [
            replace(request, width=size and size[0], height=size and size[1], batch=batch, steps=steps)
            for size, batch, steps in product(self.sizes, self.batches, self.steps)
        ]


def benchmark(
    bundle: str | Path,
    request: Request,
    sweep: Sweep,
    plan: BenchPlan,
    *,
    engine: str = AUTO,
    split_guidance: bool = False,
    memory_budget: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Report:
    """Times a bundle on this machine and returns the report.

    bundle: a folder or a built-in model's name. request: the settings that all cases share, completed by what the model
    asks for, a class or a picture; its seed is the first sample's. memory_budget: in bytes, as in `latentrt.load`.
    advance: called after every request. Before anything is timed, raises RequestError for an invalid request and
    OutOfMemoryError for a case over the budget. Raises BundleError and EngineError as `latentrt.load`.
    """
    engine_kind(engine)
    check(plan)
    opened = open_bundle(folder_of(bundle), verify=False)
    engine = choose(engine, opened, low_memory=memory_budget is not None)
    cases = sweep.cases(completed(request, opened.manifest))
    open_pipeline = partial(load, bundle, engine=engine, split_guidance=split_guidance, memory_budget=memory_budget)
    with open_pipeline(verify=False) as pipeline:
        for case in cases:
            prepare(pipeline, case)

    gpu = open_nvml()
    instruments = Instruments(find_meters(gpu=gpu), gpu)
    return Report(
        format=FORMAT,
        date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        subject=subject_of(opened),
        engine=engine,
        machine=machine(engine, gpu=gpu),
        cases=tuple(measure(open_pipeline, opened, case, plan, instruments, advance) for case in cases),
    )


def check(plan: BenchPlan) -> None:
    """Raises RequestError for a plan without samples or without warm-ups, or with more than `MOST`."""
    for name, value in (("runs", plan.runs), ("warmups", plan.warmups)):
        if not 1 <= value <= MOST:
            raise RequestError(f"{name}: got {value}, expected 1 to {MOST}")
