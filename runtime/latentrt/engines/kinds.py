"""The table of engines: one row per engine, as data."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentrt.bundle.manifest import Precision


@dataclass(frozen=True)
class MemoryModel:
    """Memory that an engine needs for a graph.

    weights: bytes in memory per byte of the graph's file, by precision; for w4, of all but its weights in 8 bits.
    loading: the same while a graph is loaded whose weights lie in the graph's own file; empty where that is no more.
    packing: the same while one is loaded whose weights lie in a second file, which needs more only where it packs them.
    maps: whether tables of which rows are read stay in a second file, which is mapped.
    scores: whether attention scores are held in memory, all heads at once. striped: whether the VAE decoder works in
    stripes, one after the other.
    """

    weights: Mapping[Precision, float]
    scores: bool
    striped: bool = False
    loading: Mapping[Precision, float] = field(default_factory=dict)
    packing: Mapping[Precision, float] = field(default_factory=dict)
    maps: bool = False


@dataclass(frozen=True)
class EngineKind:
    """One engine: the module that opens it (an `EngineFactory`), the package it needs, the extra that installs that.

    alternatives: other import names of the package. file: a file that the package must contain. bindings: a second
    package that it needs. takes_weights: whether weights of its graphs can be overridden when they are loaded. gpu:
    whether it needs an NVIDIA GPU. memory: for a graph as it is in the bundle; if None, a memory budget is refused.
    """

    module: str
    requires: str
    extra: str
    alternatives: tuple[str, ...] = ()
    file: str = ""
    bindings: str = ""
    takes_weights: bool = False
    gpu: bool = False
    memory: MemoryModel | None = None

    @property
    def installed(self) -> bool:
        """Whether the engine's package can be found."""
        return self.found is not None

    @property
    def found(self) -> str | None:
        """Import name of the installed package; None if it is not installed."""
        for name in (self.requires, *self.alternatives):
            spec = importlib.util.find_spec(name)
            folders = spec.submodule_search_locations or () if spec else ()
            if any((Path(folder) / self.file).exists() for folder in folders):
                return name
        return None

    @property
    def needs(self) -> str:
        """The package to install, in words."""
        return f"{self.requires} with {self.file}" if self.file else self.requires

    @property
    def install(self) -> str:
        """The command that installs it."""
        command = f"run `pip install 'latentrt[{self.extra}]'`"
        # onnxruntime and onnxruntime-gpu have the same files: the one installed last overwrites the other.
        before = (
            ", after `pip uninstall onnxruntime onnxruntime-gpu` if onnxruntime is installed: only one of the two may "
            "be installed"
        )
        return command + before if self.file else command


LIBRARY = "capi/onnxruntime_providers_{}.dll" if os.name == "nt" else "capi/libonnxruntime_providers_{}.so"
ONNX, NVIDIA = "latentrt.engines.onnx.engine", "latentrt.engines.nvidia.engine"

ENGINES = {
    "onnxruntime": EngineKind(
        ONNX,
        "onnxruntime",
        "cpu",
        takes_weights=True,
        memory=MemoryModel(
            {"fp32": 1.1, "fp16": 2.5, "w16": 2.5, "int8": 2.3, "w8": 5.0, "w4": 1.2},
            scores=True,
            loading={"fp32": 2.0, "fp16": 4.0, "w16": 4.0, "w4": 2.2},
            packing={"w4": 1.4},
            maps=True,
        ),
    ),
    "openvino": EngineKind(
        "latentrt.engines.openvino",
        "openvino",
        "openvino",
        memory=MemoryModel({"fp32": 2.0, "fp16": 8.0, "w16": 8.0, "int8": 3.4, "w8": 8.0, "w4": 3.0}, scores=False),
    ),
    "cuda": EngineKind(ONNX, "onnxruntime", "cuda", file=LIBRARY.format("cuda"), takes_weights=True, gpu=True),
    "cuda-tensorrt": EngineKind(ONNX, "onnxruntime", "cuda", file=LIBRARY.format("tensorrt"), gpu=True),
    "tensorrt": EngineKind(
        NVIDIA,
        "tensorrt",
        "tensorrt",
        alternatives=("tensorrt_bindings", "tensorrt_lean", "tensorrt_lean_bindings"),
        bindings="cuda-bindings",
        gpu=True,
    ),
    "tensorrt-rtx": EngineKind(
        NVIDIA,
        "tensorrt_rtx",
        "rtx",
        alternatives=("tensorrt_rtx_bindings",),
        bindings="cuda-bindings",
        gpu=True,
    ),
}

# "auto" is the fastest installed engine for a CPU, or the engine that LATENTRT_ENGINE names. "cpu" is ONNX Runtime.
AUTO = "auto"
ALIASES = {"cpu": "onnxruntime"}
NAMES = (AUTO, *ALIASES, *ENGINES)
CPU_ENGINES = tuple(name for name, kind in ENGINES.items() if not kind.gpu)
