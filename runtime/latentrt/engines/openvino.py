"""OpenVINO on a CPU, x86-64 or ARM: graphs compiled for the shapes of the first call, and cached on disk."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentrt.bundle.folder import Bundle
from latentrt.bundle.manifest import Component
from latentrt.device.cores import usable_cores
from latentrt.device.cpu import processor
from latentrt.engines import ENGINES, MemoryModel, failure, lacks_memory, telemetry
from latentrt.engines.artifacts import graph_digest, one_line
from latentrt.engines.openvino_cache import cache_settings
from latentrt.storage.user_dirs import user_cache
from latentrt.tensors import Array, check, side_of, split_axis

if TYPE_CHECKING:
    from latentrt.engines import Engine

log = logging.getLogger(__name__)

# OpenVINO's name of a half type by the capability of the processor; the first supported one is used.
HALF_TYPES = {"BF16": "bf16", "FP16": "f16"}
# A timestep near 1000 needs more bits than a half type has: components with this input compute in float32.
FLOAT32_INPUT = "timestep"
# Compiling large float weights takes hardly longer than reading a compiled copy: larger graphs are not cached.
LARGEST_CACHED_BYTES = 1 << 30


def open_engines(bundle: Bundle, engine: str, *, low_memory: bool = False) -> dict[str, Engine]:
    """An engine for each component of the bundle; see `EngineFactory`."""
    return {name: engine_of(bundle, name) for name in bundle.manifest.components}


def open_engine(name: str, component: Component, folder: Path, engine: str) -> OpenVinoEngine:
    """The engine of one component of the bundle in `folder`; see `EngineFactory`."""
    return OpenVinoEngine(name, component, folder / component.file)


def engine_of(bundle: Bundle, name: str) -> OpenVinoEngine:
    """The engine of one component, with a cache folder named after the hash of the graph."""
    component = bundle.manifest.components[name]
    files = (component.file, *component.data)
    small = sum(bundle.manifest.files[file].bytes for file in files) <= LARGEST_CACHED_BYTES
    cache = user_cache("openvino") / graph_digest(bundle.manifest, component)[:16] if small else None
    return OpenVinoEngine(name, component, bundle.path(component.file), cache)


class OpenVinoEngine:
    """One graph. An axis has the size of the first call; when a call has another size, the axis becomes dynamic.

    Fixed shapes are faster by a quarter or more, and a single compiled graph needs a single copy of the weights. Calls
    of one graph wait for each other: an infer request serves one call, and one call uses all cores.
    """

    def __init__(self, name: str, component: Component, path: Path, cache: Path | None = None) -> None:
        self.name, self.component, self.path, self.cache = name, component, path, cache
        self.lock = threading.RLock()  # guards the fields below, held during a call
        self.model: Any = None
        self.request: Any = None
        self.fixed: dict[str, int] | None = None

    @property
    def memory(self) -> MemoryModel | None:
        """The memory that OpenVINO needs for the graph."""
        return ENGINES["openvino"].memory

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Returns every output by name. Raises ShapeError for wrong feeds, EngineError if the run fails."""
        sizes = check(self.component.inputs, feeds, self.name)
        with self.lock:
            self.load()
            try:
                self.fit(sizes)
                found = self.request.infer(dict(feeds), share_inputs=True)
                return {spec.name: found[spec.name] for spec in self.component.outputs}
            except Exception as error:  # OpenVINO raises RuntimeError, and KeyError for a missing output
                raise failure(f"{self.name}: OpenVINO failed with {sizes}: {one_line(error)}", error) from error

    def load(self) -> None:
        """Reads the graph; the first call compiles it. Raises EngineError if OpenVINO refuses it."""
        with self.lock:
            if self.model is None:
                try:
                    self.model = core().read_model(self.path)
                except Exception as error:  # RuntimeError, of several modules
                    raise failure(
                        f"{self.path}: OpenVINO cannot load it: {one_line(error)}; check it with `latentrt verify`",
                        error,
                    ) from error

    def unload(self) -> None:
        """Drops the graph and its compiled form, after a running call of another thread."""
        with self.lock:
            self.model = self.request = self.fixed = None

    def close(self) -> None:
        """The same as `unload`; a later call loads again."""
        self.unload()

    def fit(self, sizes: Mapping[str, int]) -> None:
        """Compiles the graph, unless the compiled form accepts these sizes."""
        before = dict(sizes) if self.fixed is None else self.fixed
        fixed = {symbol: size for symbol, size in before.items() if sizes[symbol] == size}
        if fixed != self.fixed:
            self.request = self.fixed = None  # first, so that only one copy of the weights is in memory
            shapes = {spec.name: [side(axis, fixed) for axis in spec.shape] for spec in self.component.inputs}
            self.model.reshape(shapes)
            self.request = self.compiled(shapes).create_infer_request()
            self.fixed = fixed

    def compiled(self, shapes: Mapping[str, list[int]]) -> Any:
        """The graph compiled for these shapes, or read from the cache."""
        settings = self.settings()
        if self.cache is None:
            return core().compile_model(self.model, "CPU", settings)
        key = json.dumps([shapes, settings, telemetry.openvino().get_version(), processor()], sort_keys=True)
        folder = self.cache / hashlib.sha256(key.encode()).hexdigest()[:16]
        try:
            with cache_settings(folder) as cached:
                return core().compile_model(self.model, "CPU", {**settings, **cached})
        except Exception as error:  # RuntimeError: from the graph, or from a cache folder that OpenVINO cannot use
            if lacks_memory(error):
                raise
            log.warning("%s: OpenVINO cannot cache the compiled graph in %s: %s", self.name, folder, one_line(error))
            return core().compile_model(self.model, "CPU", settings)

    def settings(self) -> dict[str, Any]:
        """OpenVINO's compile settings.

        A component exported in fp32 computes in float32. Others use the processor's half type if it has one, and round
        the inputs of products with weights in 4 or 8 bits to 8 bits where it multiplies those faster (VNNI).
        """
        exact = self.component.precision == "fp32" or any(spec.name == FLOAT32_INPUT for spec in self.component.inputs)
        return {
            "INFERENCE_NUM_THREADS": usable_cores(),
            "INFERENCE_PRECISION_HINT": "f32" if exact else half_type(),
            "PERFORMANCE_HINT": "LATENCY",
            **({"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0} if exact else {}),
        }


def side(axis: int | str, fixed: Mapping[str, int]) -> int:
    """The size of an axis for OpenVINO; -1 if it is dynamic."""
    known = isinstance(axis, int) or split_axis(axis)[1] in fixed
    return side_of(axis, fixed) if known else -1


def core() -> Any:
    """The process's OpenVINO core. Raises EngineError if OpenVINO cannot be imported."""
    with telemetry.importing:
        return new_core()


@functools.cache
def new_core() -> Any:
    """A new OpenVINO core, which is slow to start."""
    return telemetry.openvino().Core()


def half_type() -> str:
    """The half type that this processor computes in natively; float32 if it has none."""
    able = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return next((name for capability, name in HALF_TYPES.items() if capability in able), "f32")
