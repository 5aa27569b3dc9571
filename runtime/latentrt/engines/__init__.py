"""The seam between the pipeline and what runs a graph; nothing outside this folder knows which engine that is."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from latentrt.errors import EngineError, OutOfMemoryError

if TYPE_CHECKING:
    from latentrt.bundle.folder import Bundle
    from latentrt.bundle.manifest import Component
    from latentrt.tensors import Array


class Engine(Protocol):
    """One graph, ready to be called. Loading is explicit, so that a pipeline decides what is in memory when."""

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Returns every output by name. Loads first if need be. Raises ShapeError for feeds that do not fit."""
        ...

    def load(self) -> None:
        """Puts the graph into memory; does nothing when it is there."""
        ...

    def unload(self) -> None:
        """Frees what `load` took; the engine can be loaded again."""
        ...

    def close(self) -> None:
        """Frees everything; for use at the end."""
        ...


class Weight(Protocol):
    """What stands in for an initialiser of a graph."""

    def read(self) -> Array:
        """Returns it, in the shape and type of the initialiser."""
        ...


Weights: TypeAlias = Mapping[str, Weight]


@dataclass(frozen=True)
class EngineKind:
    """Where an engine lives: the module that opens it, the package that it needs, the extra that installs that.

    variant: what of several the module is to open. or_else: other names under which the package comes. file: a file
    that has to be in the package. builder: the module that builds what the engine runs, which is a layer above this
    one and is asked only when a call finds nothing that takes it; its `build_plan` is described at ours. exchanges:
    whether its graphs can be loaded with other weights than are in their files. gpu: whether it needs one of NVIDIA's.
    """

    module: str
    requires: str
    extra: str
    variant: str
    or_else: tuple[str, ...] = ()
    file: str = ""
    builder: str = ""
    exchanges: bool = False
    gpu: bool = False

    @property
    def installed(self) -> bool:
        """Whether the package that runs it can be found."""
        return self.found is not None

    @property
    def found(self) -> str | None:
        """The name under which the package comes here; None where it is not installed."""
        for name in (self.requires, *self.or_else):
            spec = importlib.util.find_spec(name)
            folders = spec.submodule_search_locations or () if spec else ()
            if any((Path(folder) / self.file).exists() for folder in folders):
                return name
        return None

    @property
    def needs(self) -> str:
        """What has to be installed, in words."""
        return f"{self.requires} with {self.file}" if self.file else self.requires

    @property
    def install(self) -> str:
        """What to run where it is missing."""
        command = f"run `pip install 'latentrt[{self.extra}]'`"
        # Two packages of the same files: whichever is installed last overwrites the other's.
        before = (
            ", after `pip uninstall onnxruntime onnxruntime-gpu` where onnxruntime is installed: the two must not be "
            "beside each other"
        )
        return command + before if self.file else command


LIBRARY = "capi/onnxruntime_providers_{}.dll" if os.name == "nt" else "capi/libonnxruntime_providers_{}.so"
CUDA, TENSORRT = LIBRARY.format("cuda"), LIBRARY.format("tensorrt")

ENGINES = {
    "onnxruntime": EngineKind("latentrt.engines.onnx.session", "onnxruntime", "cpu", "cpu", exchanges=True),
    "openvino": EngineKind("latentrt.engines.openvino", "openvino", "openvino", "cpu"),
    "cuda": EngineKind(
        "latentrt.engines.onnx.session", "onnxruntime", "cuda", "cuda", file=CUDA, exchanges=True, gpu=True
    ),
    "cuda-tensorrt": EngineKind(
        "latentrt.engines.onnx.session", "onnxruntime", "cuda", "cuda-tensorrt", file=TENSORRT, gpu=True
    ),
    "tensorrt": EngineKind(
        "latentrt.engines.nvidia.engine",
        "tensorrt",
        "tensorrt",
        "tensorrt",
        ("tensorrt_bindings", "tensorrt_lean", "tensorrt_lean_bindings"),
        builder="latentrt_export.build.tensorrt",
        gpu=True,
    ),
    "tensorrt-rtx": EngineKind(
        "latentrt.engines.nvidia.engine",
        "tensorrt_rtx",
        "rtx",
        "tensorrt-rtx",
        ("tensorrt_rtx_bindings",),
        builder="latentrt_export.build.tensorrt",
        gpu=True,
    ),
}


# "auto" is the fastest installed engine for a CPU, or the engine that LATENTRT_ENGINE names. "cpu" is ONNX Runtime.
AUTO, CPU_ENGINES = "auto", ("onnxruntime", "openvino")
ALIASES = {"cpu": "onnxruntime"}
NAMES = (AUTO, *ALIASES, *ENGINES)
VARIABLE = "LATENTRT_ENGINE"


def auto_engines() -> tuple[str, ...]:
    """Engines that "auto" may stand for, in order of preference. Raises EngineError for a wrong LATENTRT_ENGINE."""
    named = os.environ.get(VARIABLE, "")
    if named in ("", AUTO):
        return CPU_ENGINES
    if named not in NAMES:
        raise EngineError(f"{VARIABLE}: got {named!r}, expected one of {', '.join(NAMES)}")
    return (ALIASES.get(named, named),)


def choose(name: str, bundle: Bundle, *, frugal: bool = False, exchanges: bool = False) -> str:
    """Returns the engine in `ENGINES` that `name` stands for with this bundle.

    "cpu" is ONNX Runtime. "auto" is the engine that LATENTRT_ENGINE names, else the fastest installed engine for a CPU;
    where several are installed, they are measured once. All other names stand for themselves.

    frugal: "auto" is the first installed engine, which needs the least memory; measuring the others would need theirs.
    exchanges: "auto" is an engine that can replace a graph's weights, if one is installed, even a slower one.
    Raises EngineError if the engine's package is not installed.
    """
    engine_kind(name)
    if name != AUTO:
        return ALIASES.get(name, name)
    able = [one for one in CPU_ENGINES if ENGINES[one].exchanges and ENGINES[one].installed]
    if exchanges and able:
        return able[0]
    if frugal:
        return next(one for one in auto_engines() if ENGINES[one].installed)
    fastest: str = importlib.import_module("latentrt.engines.autoselect").fastest(bundle)
    return fastest


def open_engines(name: str, bundle: Bundle, *, frugal: bool = False) -> dict[str, Engine]:
    """Returns an engine of the kind `name` for every component of a bundle; nothing is loaded yet.

    frugal: give memory back between the calls, which may make them slower, where the engine would keep it. They share
    what can be shared. Raises EngineError for an unknown name, or one whose package is not installed.
    """
    kind = engine_kind(name)
    opened: dict[str, Engine] = importlib.import_module(kind.module).open_engines(bundle, kind.variant, frugal=frugal)
    return opened


def open_changed(
    name: str, bundle: Bundle, weights: Mapping[str, Weights], *, frugal: bool = False
) -> dict[str, Engine]:
    """Returns engines for the components of a bundle that some weights are changed of; nothing is loaded yet.

    weights: by component, then by initialiser. frugal: as in `open_engines`. Raises EngineError for an engine that
    cannot take them.
    """
    kind = engine_kind(name)
    if not kind.exchanges:
        able = " or ".join(one for one, kind in ENGINES.items() if kind.exchanges)
        raise EngineError(
            f"LoRA: got the engine {name}, expected {able}; load with one of these (--engine), or fuse the file into "
            "the bundle with `latentrt export --lora FILE:SCALE`"
        )
    opened: dict[str, Engine] = importlib.import_module(kind.module).open_changed(
        bundle, weights, kind.variant, frugal=frugal
    )
    return opened


def open_engine(name: str, name_of_component: str, component: Component, folder: Path) -> Engine:
    """Returns an engine of the kind `name` for a component of the bundle in `folder`; nothing is loaded yet.

    Raises EngineError for an unknown name, or one whose package is not installed.
    """
    kind = engine_kind(name)
    opened: Engine = importlib.import_module(kind.module).open_engine(
        name_of_component, component, folder, kind.variant
    )
    return opened


def build_plan(name: str, bundle: Bundle, component: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Has a plan built that takes inputs of these shapes, and puts it into the bundle's `plan_store`.

    name: the engine that is to run it, on the current GPU. Raises what the builder raises, which is EngineError where
    this machine cannot build.
    """
    importlib.import_module(ENGINES[name].builder).build_plan(name, bundle, component, shapes)


OUT_OF_MEMORY = ("bad_alloc", "Failed to allocate", "can't alloc", "Cannot allocate memory", "out of memory")


def failure(message: str, error: Exception) -> EngineError:
    """The error of an engine that failed with `error`: OutOfMemoryError where that is what its own says."""
    return OutOfMemoryError(message) if lacks_memory(error) else EngineError(message)


def lacks_memory(error: Exception) -> bool:
    """Whether an engine failed for want of memory."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def engine_kind(name: str) -> EngineKind:
    """The engine of that name, if its package is installed; for "auto", the first that is.

    Raises EngineError that lists the known names, or says what to install.
    """
    if name not in NAMES:
        raise EngineError(f"engine: got {name!r}, expected one of {', '.join(NAMES)}")
    kinds = [ENGINES[one] for one in (auto_engines() if name == AUTO else (ALIASES.get(name, name),))]
    kind = next((one for one in kinds if one.installed), kinds[0])
    if not kind.installed:
        raise EngineError(f"engine {name!r} needs {kind.needs}: {kind.install}")
    return kind
