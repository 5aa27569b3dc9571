"""Engines run graphs: one engine per component of a bundle. Other rooms know engines by name only.

An engine is a row in `kinds.ENGINES` and a module with the functions of `EngineFactory`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from latentrt.engines.kinds import ALIASES, AUTO, CPU_ENGINES, ENGINES, NAMES, EngineKind, MemoryModel
from latentrt.errors import EngineError, OutOfMemoryError
from latentrt.extensions import PLAN_BUILDERS

if TYPE_CHECKING:
    from latentrt.bundle.folder import Bundle
    from latentrt.bundle.manifest import Component
    from latentrt.engines.onnx.bare import PictureGraph
    from latentrt.engines.onnx.branches import Branch
    from latentrt.engines.onnx.initializers import Initializer
    from latentrt.tensors import Array

__all__ = [
    "AUTO",
    "CPU_ENGINES",
    "ENGINES",
    "NAMES",
    "VARIABLE",
    "Addition",
    "Engine",
    "EngineFactory",
    "EngineKind",
    "MemoryModel",
    "Weight",
    "Weights",
    "WeightsFactory",
    "artifacts",
    "auto_engines",
    "autoselect",
    "choose",
    "cuda_graphs",
    "engine_kind",
    "failure",
    "keeping",
    "kinds",
    "lacks_memory",
    "nvidia",
    "onnx",
    "open_engine",
    "open_engines",
    "open_picture_graph",
    "open_with_weights",
    "telemetry",
    "wrapped",
]


class Engine(Protocol):
    """One graph, ready to be called. Loading is explicit, so that a pipeline controls memory."""

    @property
    def memory(self) -> MemoryModel | None:
        """The memory that the engine needs for this graph; None if unknown."""
        ...

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Returns every output by name; loads the graph first if needed. Raises ShapeError for wrong feeds.

        An engine on a GPU copies a feed that cannot change (`tensors.is_constant`) to its device once, not at every
        call. Outputs that should stay there: `keeping`.
        """
        ...

    def load(self) -> None:
        """Loads the graph into memory; does nothing if it is loaded."""
        ...

    def unload(self) -> None:
        """Frees the memory of the graph; the engine can be loaded again."""
        ...

    def close(self) -> None:
        """Frees everything, at the end of the engine's use."""
        ...


class Weight(Protocol):
    """A tensor that overrides an initialiser of a graph."""

    @property
    def initializer(self) -> Initializer:
        """The initialiser: its file, offset, shape and type."""
        ...

    def read(self) -> Array:
        """Returns the tensor, in the shape and type of the initialiser."""
        ...


class Addition(Protocol):
    """What is added to a value of a graph."""

    @property
    def narrow(self) -> bool:
        """Whether its factors are much smaller than the weight beside which they stand."""
        ...

    def read(self) -> Branch:
        """Returns the branch, whose factors have the graph's type."""
        ...


@dataclass(frozen=True)
class Weights:
    """Changes of a graph's weights, by name: of the initialiser that is overridden, or the value that is added to."""

    overrides: Mapping[str, Weight] = field(default_factory=dict)
    branches: Mapping[str, Addition] = field(default_factory=dict)


class EngineFactory(Protocol):
    """The functions of an engine's module. engine: the row of `ENGINES`, since one module may serve several."""

    def open_engines(self, bundle: Bundle, engine: str, *, low_memory: bool = False) -> Mapping[str, Engine]:
        """Returns an engine per component of the bundle."""
        ...

    def open_engine(self, name: str, component: Component, folder: Path, engine: str) -> Engine:
        """Returns the engine of one component of the bundle in `folder`."""
        ...


class WeightsFactory(EngineFactory, Protocol):
    """The module of an engine whose row in `ENGINES` has `takes_weights`."""

    def open_with_weights(
        self, bundle: Bundle, weights: Mapping[str, Weights], engine: str, *, low_memory: bool = False
    ) -> Mapping[str, Engine]:
        """Returns an engine per component in `weights`, whose graphs have these changes."""
        ...


VARIABLE = "LATENTRT_ENGINE"


def auto_engines() -> tuple[str, ...]:
    """Engines that "auto" may stand for, in order of preference. Raises EngineError for a wrong LATENTRT_ENGINE."""
    named = os.environ.get(VARIABLE, "")
    if named in ("", AUTO):
        return CPU_ENGINES
    if named not in NAMES:
        raise EngineError(f"{VARIABLE}: got {named!r}, expected one of {', '.join(NAMES)}")
    return (ALIASES.get(named, named),)


def choose(name: str, bundle: Bundle, *, low_memory: bool = False, takes_weights: bool = False) -> str:
    """Returns the key in `ENGINES` that `name` stands for with this bundle.

    "cpu" is ONNX Runtime. "auto" is the engine that LATENTRT_ENGINE names, else the fastest installed engine for a CPU;
    if several are installed, they are timed once. All other names stand for themselves.

    low_memory: "auto" is the first installed engine, which needs the least memory; timing the others would need more.
    So it is for an autoencoder alone: the denoiser is what is timed.
    takes_weights: "auto" is an engine that can override weights, if one is installed, even a slower one.
    Raises EngineError if the engine's package is not installed.
    """
    engine_kind(name)
    if name != AUTO:
        return ALIASES.get(name, name)
    able = [one for one in CPU_ENGINES if ENGINES[one].takes_weights and ENGINES[one].installed]
    if takes_weights and able:
        return able[0]
    if low_memory or bundle.manifest.schedule is None:
        return next(one for one in auto_engines() if ENGINES[one].installed)
    fastest: str = importlib.import_module("latentrt.engines.autoselect").fastest(bundle)
    return fastest


def open_engines(name: str, bundle: Bundle, *, low_memory: bool = False) -> dict[str, Engine]:
    """Returns an engine of the kind `name` for every component of a bundle; no graph is loaded yet.

    low_memory: engines return memory between calls, which may be slower. Engines on a GPU share its activation memory.
    Raises EngineError for an unknown name, or one whose package is not installed.
    """
    factory = cast(EngineFactory, importlib.import_module(engine_kind(name).module))
    return dict(factory.open_engines(bundle, ALIASES.get(name, name), low_memory=low_memory))


def open_with_weights(
    name: str, bundle: Bundle, weights: Mapping[str, Weights], *, low_memory: bool = False
) -> dict[str, Engine]:
    """Returns engines for the components of a bundle whose weights are changed; no graph is loaded yet.

    weights: by component, then by initialiser. low_memory: as in `open_engines`. Raises EngineError for an engine that
    cannot override weights.
    """
    kind = engine_kind(name)
    if not kind.takes_weights:
        able = " or ".join(one for one, kind in ENGINES.items() if kind.takes_weights)
        raise EngineError(
            f"LoRA: got the engine {name}, expected {able}; load with one of these (--engine), or fuse the file into "
            "the bundle with `latentrt export --lora FILE:SCALE`"
        )
    factory = cast(WeightsFactory, importlib.import_module(kind.module))
    return dict(factory.open_with_weights(bundle, weights, ALIASES.get(name, name), low_memory=low_memory))


def open_engine(name: str, name_of_component: str, component: Component, folder: Path) -> Engine:
    """Returns an engine of the kind `name` for one component of the bundle in `folder`; the graph is not loaded yet.

    Raises EngineError for an unknown name, or one whose package is not installed.
    """
    factory = cast(EngineFactory, importlib.import_module(engine_kind(name).module))
    return factory.open_engine(name_of_component, component, folder, ALIASES.get(name, name))


def open_picture_graph(path: Path, engine: str = AUTO) -> PictureGraph:
    """Returns a network from a picture to a picture, of an ONNX file without a bundle, loaded.

    Raises EngineError for another kind of file, and for an engine that takes none.
    """
    return cast("PictureGraph", importlib.import_module("latentrt.engines.onnx.bare").PictureGraph(path, engine))


def build_plan(name: str, bundle: Bundle, component: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Builds a plan for inputs of these shapes, in the bundle's `plan_store`. Needs the export package.

    name: the engine that will run the plan, on the current GPU. Raises EngineError if this machine cannot build plans.
    """
    importlib.import_module(PLAN_BUILDERS[name]).build_plan(name, bundle, component, shapes)


OUT_OF_MEMORY = ("bad_alloc", "Failed to allocate", "can't alloc", "Cannot allocate memory", "out of memory")


def failure(message: str, error: Exception) -> EngineError:
    """The error to raise for an engine that failed with `error`: OutOfMemoryError if memory ran out."""
    return OutOfMemoryError(message) if lacks_memory(error) else EngineError(message)


def lacks_memory(error: Exception) -> bool:
    """Whether an engine failed because memory ran out."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def engine_kind(name: str) -> EngineKind:
    """The row of an engine, if its package is installed; for "auto", the first installed one.

    Raises EngineError with the known names, or with the command that installs the package.
    """
    if name not in NAMES:
        raise EngineError(f"engine: got {name!r}, expected one of {', '.join(NAMES)}")
    kinds = [ENGINES[one] for one in (auto_engines() if name == AUTO else (ALIASES.get(name, name),))]
    kind = next((one for one in kinds if one.installed), kinds[0])
    if not kind.installed:
        raise EngineError(f"engine {name!r} needs {kind.needs}: {kind.install}")
    return kind
