"""Engines of ONNX Runtime: for a CPU, and for an NVIDIA GPU, where tensors stay between calls and a CUDA graph replays.

On a GPU, whatever cannot change is copied there once, not once a call, and the components that a run calls at every
step are captured as a CUDA graph per shape (`binding`).
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from latentrt.bundle.folder import Bundle
from latentrt.bundle.manifest import Component
from latentrt.bundle.sources import LOOP_ROLES
from latentrt.engines import ENGINES, MemoryModel, Weights, cuda_graphs, failure
from latentrt.engines.artifacts import one_line
from latentrt.engines.onnx.binding import BoundSession, CaptureError
from latentrt.engines.onnx.branches import Branches
from latentrt.engines.onnx.initializers import Override
from latentrt.engines.onnx.optimised import graph_of
from latentrt.engines.onnx.session import CPU, GRAPH_PROVIDERS, new_session
from latentrt.errors import EngineError
from latentrt.tensors import Array, Tensor, check

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from latentrt.engines import Engine

log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

UNCHANGED = Weights()
# Memory for a graph that `latentrt build --target cpu` optimised.
OPTIMISED = MemoryModel(
    {"fp32": 1.1, "fp16": 4.3, "w16": 4.3, "int8": 0.95, "w8": 5.0, "w4": 1.2}, scores=False, striped=True, maps=True
)
# Memory for a graph with changed weights, at most all: they stay in memory in addition to their packed copies. What is
# added to weights in few bits has their size in float32.
OVERRIDDEN = MemoryModel({"fp32": 2.5, "fp16": 7.0, "w16": 7.0, "int8": 2.3, "w8": 9.0, "w4": 11.0}, scores=True)
# Memory for a graph in few bits with narrow branches, which are small, as are its float weights. It is read as a copy.
BESIDE = MemoryModel(
    {"w8": 5.0, "w4": 1.2}, scores=True, loading={"w8": 3.0, "w4": 3.2}, packing={"w4": 1.4}, maps=True
)
# The roles that a run calls at every step. A graph of a component that is called once costs more than it saves.
STEPWISE = (*LOOP_ROLES, "prior")
# ONNX Runtime's name of the device of every engine that has one of its own.
DEVICES = {"cuda": "cuda", "cuda-tensorrt": "cuda"}


def open_engines(bundle: Bundle, engine: str = CPU, *, low_memory: bool = False) -> dict[str, Engine]:
    """An engine per component of the bundle; see `EngineFactory`."""
    names = bundle.manifest.components
    with ThreadPoolExecutor() as pool:  # optimised graphs are hashed, and hashlib releases the interpreter's lock
        opened = pool.map(lambda name: engine_of(bundle, name, engine, low_memory=low_memory), names)
        return dict(zip(names, opened, strict=True))


def engine_of(bundle: Bundle, name: str, engine: str, *, low_memory: bool = False) -> OnnxRuntimeEngine:
    """The engine of one component, on the graph optimised for this processor if there is one."""
    component = bundle.manifest.components[name]
    built = graph_of(bundle, name) if engine == CPU else None
    graph = built or bundle.path(component.file)
    return class_of(engine)(name, component, graph, engine, optimised=built is not None, low_memory=low_memory)


def open_with_weights(
    bundle: Bundle, weights: Mapping[str, Weights], engine: str = CPU, *, low_memory: bool = False
) -> dict[str, Engine]:
    """An engine per component in `weights`; see `WeightsFactory`.

    Graphs optimised for this processor have packed weights, so the canonical graphs run here.
    """
    components = bundle.manifest.components
    return {
        name: class_of(engine)(
            name, components[name], bundle.path(components[name].file), engine, low_memory=low_memory, weights=overrides
        )
        for name, overrides in weights.items()
    }


def open_engine(name: str, component: Component, folder: Path, engine: str = CPU) -> OnnxRuntimeEngine:
    """The engine of one component; see `EngineFactory`."""
    return class_of(engine)(name, component, folder / component.file, engine)


def class_of(engine: str) -> type[OnnxRuntimeEngine]:
    """The class of an engine: one with tensors on its device if the engine has a device of its own."""
    return BoundEngine if engine in DEVICES else OnnxRuntimeEngine


@dataclass(frozen=True)
class Made:
    """The arrays of a graph's changed weights, which a session does not own."""

    overrides: Mapping[str, Override]
    branches: Branches


NOTHING = Made({}, {})


def made_of(weights: Weights) -> Made:
    """The arrays of changed weights, read and computed now."""
    overrides = {name: Override(weight.read(), weight.initializer) for name, weight in weights.overrides.items()}
    return Made(overrides, {name: one.read() for name, one in weights.branches.items()})


class OnnxRuntimeEngine:
    """One ONNX Runtime session, created on first use.

    engine: the row of `ENGINES`, and of `PROVIDERS`. optimised: whether the graph comes from `optimised.graph_of`.
    low_memory: free memory after every call. weights: changes of the graph's weights.
    """

    def __init__(
        self,
        name: str,
        component: Component,
        path: Path,
        engine: str = CPU,
        *,
        optimised: bool = False,
        low_memory: bool = False,
        weights: Weights = UNCHANGED,
    ) -> None:
        self.name, self.component, self.path, self.engine = name, component, path, engine
        self.optimised, self.low_memory, self.weights = optimised, low_memory, weights
        self.session: InferenceSession | None = None
        self.made = NOTHING
        self.lock = threading.Lock()  # for loading only: a session allows calls side by side

    @property
    def memory(self) -> MemoryModel | None:
        """The memory that the graph needs, in the form in which it is run."""
        if self.optimised:
            return OPTIMISED
        if not (self.weights.overrides or self.weights.branches):
            return ENGINES[self.engine].memory
        narrow = all(one.narrow for one in self.weights.branches.values())
        return BESIDE if narrow and self.component.precision in BESIDE.weights else OVERRIDDEN

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Returns every output by name. Raises ShapeError for wrong feeds, EngineError if the run fails."""
        sizes = check(self.component.inputs, feeds, self.name)
        names = [spec.name for spec in self.component.outputs]
        session, _made = self.loaded()  # a reference, because another thread may unload meanwhile
        try:
            outputs = session.run(names, dict(feeds))
        except Exception as error:  # ONNX Runtime's own errors share no base but Exception
            raise self.failed(sizes, error) from error
        return dict(zip(names, outputs, strict=True))

    def failed(self, sizes: Mapping[str, int], error: Exception) -> EngineError:
        """The error to raise for a call that failed with `error`."""
        return failure(f"{self.name}: ONNX Runtime failed with {sizes}: {one_line(error)}", error)

    def load(self) -> None:
        """Creates the session. Raises EngineError if ONNX Runtime refuses the graph."""
        self.loaded()

    def loaded(self) -> tuple[InferenceSession, Made]:
        """The session, created if needed, and the changed weights, which must outlive it. Raises as `load`."""
        with self.lock:
            if self.session is None:
                made = made_of(self.weights)
                self.session = self.opened(made)
                self.made = made
            return self.session, self.made

    def opened(self, made: Made, *, graphs: bool = False) -> InferenceSession:
        """A new session. Raises EngineError if ONNX Runtime refuses the graph."""
        return new_session(
            self.path,
            self.engine,
            optimised=self.optimised,
            low_memory=self.low_memory,
            overrides=made.overrides,
            branches=made.branches,
            graphs=graphs,
        )

    def unload(self) -> None:
        """Drops the session; its memory is freed after running calls of other threads."""
        with self.lock:
            self.session, self.made = None, NOTHING

    def close(self) -> None:
        """The same as `unload`; a later call loads again."""
        self.unload()


@functools.cache
def device_thread() -> ThreadPoolExecutor:
    """The thread on which all engines with a device of their own do their work, one after the other.

    ONNX Runtime has the CUDA graphs of a session per thread: another thread would capture its own, and the handles of a
    thread that ended would stay. And while one session captures, no other may use the GPU (CUDA's global mode).
    """
    return ThreadPoolExecutor(1, thread_name_prefix="latentrt-device")


def on_device_thread(work: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """What `work` returns; it runs on the device's thread. Raises what it raises."""
    return device_thread().submit(work, *arguments, **named).result()


class BoundEngine(OnnxRuntimeEngine):
    """A session whose tensors lie on a device; the calls of all such engines take turns on one thread.

    arguments, options: of `OnnxRuntimeEngine`. graphs: whether calls may be captured as CUDA graphs. If ONNX Runtime
    refuses that, or a captured call fails, the engine says so once and runs without from then on.
    """

    def __init__(self, *arguments: Any, graphs: bool = True, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.device = DEVICES.get(self.engine, "cpu")
        able = self.engine in GRAPH_PROVIDERS and self.component.role in STEPWISE
        self.graphs = graphs and able and cuda_graphs.wanted()
        self.bound: BoundSession | None = None

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Returns every output by name, on the host. Raises ShapeError for wrong feeds, EngineError if the run fails.

        A feed that cannot change (`tensors.is_constant`) is copied to the device once, as long as its array lives.
        """
        return cast(dict[str, Array], self.keep(feeds, ()))

    def keep(self, feeds: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
        """Returns every output by name; those in `names` stay on the device. Raises as a call; see `keeping`."""
        sizes = check(self.component.inputs, feeds, self.name)
        return on_device_thread(self.called, feeds, sizes, names)

    def called(
        self, feeds: Mapping[str, Tensor], sizes: Mapping[str, int], names: Collection[str]
    ) -> dict[str, Tensor]:
        """The outputs of a call; without CUDA graphs from now on if one fails. On the device's thread."""
        try:
            return self.bound_session()(feeds, sizes, names)
        except CaptureError as error:
            reason = one_line(error)
        except EngineError:  # from loading
            raise
        except Exception as error:  # ONNX Runtime's own errors share no base but Exception
            raise self.failed(sizes, error) from error
        # Outside the handler, because its error keeps the failed call's tensors alive.
        self.dropped()  # a session whose capture failed cannot be used again
        self.without_graphs(reason)
        return self.called(feeds, sizes, names)

    def bound_session(self) -> BoundSession:
        """The session with its tensors, created if needed. Raises EngineError if ONNX Runtime refuses the graph."""
        session, _made = self.loaded()
        if self.bound is None or self.bound.session is not session:
            self.bound = BoundSession(session, self.component.outputs, self.device, graphs=self.graphs)
        return self.bound

    def load(self) -> None:
        """Creates the session. Raises EngineError if ONNX Runtime refuses the graph."""
        on_device_thread(super().load)

    def opened(self, made: Made, *, graphs: bool = False) -> InferenceSession:
        """A new session, with CUDA graphs if they are wanted and possible. Raises EngineError if it is refused."""
        reason = ""
        if self.graphs:
            try:
                return super().opened(made, graphs=True)
            except EngineError as error:  # a part of the graph is not for the GPU, or it needs too much memory
                reason = str(error)
        session = super().opened(made)
        if reason:
            self.without_graphs(reason)
        return session

    def without_graphs(self, reason: str) -> None:
        """Runs without CUDA graphs from now on."""
        self.graphs = False
        log.warning("%s: runs without a CUDA graph: %s", self.name, reason)

    def unload(self) -> None:
        """Drops session, CUDA graphs and tensors, after a running call of another thread."""
        on_device_thread(self.dropped)

    def dropped(self) -> None:
        """Drops them; on the device's thread."""
        self.bound = None
        super().unload()
