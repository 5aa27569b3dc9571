"""Builds one plan (a compiled engine) from one graph's file; the weights never pass through Python."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentrt.engines.nvidia.bindings import LogCapture
from latentrt.engines.nvidia.plans import STRIPPED
from latentrt.errors import EngineError
from latentrt.storage.atomic import new_file
from latentrt_export.build.builders import Builder
from latentrt_export.build.profiles import Profile

# Builders' messages about memory that ran out, which has no error type.
OUT_OF_MEMORY = ("out of memory", "outofmemory", "mem_alloc_failed", "insufficient memory", "cudaerrormemoryallocation")

# Called with the phase's name, the steps done and the number of steps.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BuilderSettings:
    """Settings of a builder; None for the builder's default.

    level: optimisation level, 0 to 5. workspace_bytes: memory limit per kernel, besides activations. build_bytes: limit
    of the GPU memory that building uses. refit: weights can be replaced later. stripped: weights are left out, and have
    to be added before the plan runs.
    """

    level: int | None = None
    workspace_bytes: int | None = None
    build_bytes: int | None = None
    refit: bool = False
    stripped: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        """The settings that change the plan, as flags of the plan's key."""
        numbers = {"level": self.level, "workspace": self.workspace_bytes, "build-memory": self.build_bytes}
        given = (f"{name}={number}" for name, number in numbers.items() if number is not None)
        return (*given, *(flag for flag, set_ in (("refit", self.refit), (STRIPPED, self.stripped)) if set_))


@dataclass(frozen=True)
class BuildTask:
    """A graph to build. name: of its component, for messages. gpus: architectures, for a builder ahead of time."""

    name: str
    graph: Path
    profiles: tuple[Profile, ...]
    gpus: tuple[str, ...]
    settings: BuilderSettings
    timing_cache: Path


def write_plan(
    builder: Builder, task: BuildTask, path: Path, progress: Progress = lambda name, step, steps: None
) -> None:
    """Writes the plan to `path`, a temporary file of the caller.

    Raises EngineError with the message of the parser or the builder, KeyboardInterrupt after Ctrl-C.
    """
    trt, lines = builder.trt, LogCapture(builder.trt)
    maker = trt.Builder(lines.logger)
    network = maker.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    # The parser owns the weights of the network: it must live until the plan is built.
    parser = parse(builder, task, network, lines)
    config = configure(builder, task, maker)
    cache = load_timing_cache(builder, task, config)
    with monitored(trt, config, progress) as monitor:
        plan = maker.build_serialized_network(network, config)
    del parser
    if monitor.cancelled:
        raise KeyboardInterrupt
    if plan is None:
        raise EngineError(f"{task.name}: {builder.label} cannot build a plan: {reason(lines.drain())}")
    with path.open("wb") as file:
        file.write(plan)
    if cache is not None:
        with new_file(task.timing_cache) as temporary:
            temporary.chmod(0o600)
            temporary.write_bytes(config.get_timing_cache().serialize())


def parse(builder: Builder, task: BuildTask, network: Any, lines: LogCapture) -> Any:
    """Fills the network from the file; returns the parser. Raises EngineError that names every unsupported node."""
    parser = builder.trt.OnnxParser(network, lines.logger)
    if parser.parse_from_file(str(task.graph)):
        return parser
    refused = (parser.get_error(index) for index in range(parser.num_errors))
    nodes = "; ".join(
        f"{error.node_name() or 'the graph'} ({error.node_operator()}): {error.desc()}" for error in refused
    )
    raise EngineError(
        f"{task.name}: {builder.label} cannot read the graph: {nodes or lines.drain()}; use a later version, or leave "
        "this component to --engine cpu"
    )


def configure(builder: Builder, task: BuildTask, maker: Any) -> Any:
    """The builder's configuration for the task."""
    trt, settings, config = builder.trt, task.settings, maker.create_builder_config()
    pools = {
        trt.MemoryPoolType.WORKSPACE: settings.workspace_bytes,
        trt.MemoryPoolType.TACTIC_DRAM: settings.build_bytes,
    }
    for pool, size in pools.items():
        if size is not None:
            config.set_memory_pool_limit(pool, size)
    if settings.level is not None:
        config.builder_optimization_level = settings.level
    if settings.refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    if settings.stripped:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        if not settings.refit:
            config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
    if builder.differences.ahead_of_time:
        config.num_compute_capabilities = len(task.gpus)
        for index, sm in enumerate(task.gpus):
            config.set_compute_capability(getattr(trt.ComputeCapability, sm.upper()), index)
    for shapes in task.profiles:
        add_profile(builder, task, maker, config, shapes)
    return config


def add_profile(builder: Builder, task: BuildTask, maker: Any, config: Any, shapes: Profile) -> None:
    """Adds an optimisation profile. Raises EngineError if the builder refuses it."""
    profile = maker.create_optimization_profile()
    for own in shapes:
        profile.set_shape(own.name, own.smallest, own.usual, own.largest)
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"{task.name}: {builder.label} refuses the shapes {shapes}; choose another --size or --batch")


def load_timing_cache(builder: Builder, task: BuildTask, config: Any) -> Any:
    """Gives the configuration the timings of earlier builds on this GPU; an unreadable file is replaced."""
    if not builder.differences.timing_cache:
        return None
    # Timings only: a plan must not include machine code from an unsigned file.
    config.set_flag(builder.trt.BuilderFlag.DISABLE_COMPILATION_CACHE)
    content = task.timing_cache.read_bytes() if task.timing_cache.is_file() else b""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def reason(lines: str) -> str:
    """The builder's message, with advice if memory ran out."""
    if any(words in lines.lower() for words in OUT_OF_MEMORY):
        return f"memory ran out ({lines}); close other programs, add swap, or build a smaller --size or --batch"
    return f"{lines}; see `latentrt doctor`"


@contextmanager
def monitored(trt: Any, config: Any, progress: Progress) -> Iterator[Any]:
    """Gives the monitor of a build, which reports progress and stops at the next step after Ctrl-C.

    A second Ctrl-C ends the process at once, because some steps take minutes. Outside the main thread, Ctrl-C does not
    stop the build.
    """
    monitor = config.progress_monitor = monitor_of(trt, progress)
    if threading.current_thread() is not threading.main_thread():
        yield monitor
        return

    def cancel(number: int, frame: object) -> None:
        monitor.cancelled = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield monitor
    finally:
        signal.signal(signal.SIGINT, before)


def monitor_of(trt: Any, progress: Progress) -> Any:
    """A progress monitor that reports the phases, and stops the build once its `cancelled` is true."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base class is known at run time only
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = False
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            progress(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(phase_name, step + 1, self.steps.get(phase_name, step + 1))
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()
