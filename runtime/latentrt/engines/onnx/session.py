"""ONNX Runtime on the CPU or an NVIDIA GPU. External weights stay memory-mapped, and idle threads sleep.

On a GPU, a session that would compute on the CPU after all is an error: it would be right, and ten times slower.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentrt.bundle.folder import Bundle
from latentrt.bundle.manifest import Component
from latentrt.device.cores import usable_cores
from latentrt.engines import ENGINES, Weights, failure, telemetry
from latentrt.engines.artifacts import one_line
from latentrt.engines.onnx.initializers import beside, with_weights
from latentrt.engines.onnx.optimised import graph_of
from latentrt.errors import EngineError
from latentrt.tensors import Array, check

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

    from latentrt.engines import Engine


# The providers of each variant, the preferred one first, with options that differ from their defaults.
PROVIDERS: dict[str, dict[str, dict[str, str]]] = {
    "cpu": {"CPUExecutionProvider": {}},
    "cuda": {"CUDAExecutionProvider": {"cudnn_conv_algo_search": "HEURISTIC"}},
    # Its engines are not cached: ONNX Runtime would load them unsigned.
    "cuda-tensorrt": {
        "TensorrtExecutionProvider": {},
        "CUDAExecutionProvider": {"cudnn_conv_algo_search": "HEURISTIC"},
    },
}


# Operators that no shape is computed with: on the CPU, they are the model itself. Those of shapes belong there.
HEAVY = {"Conv", "ConvTranspose", "Gemm", "MatMul", "InstanceNormalization", "LayerNormalization", "Resize", "Softmax"}
# Of glibc's malloc.h.
M_MMAP_THRESHOLD = -3
ASSIGNMENT = "session.record_ep_graph_assignment_info"
# Where a graph that is given as bytes has its weights.
EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
NO_WEIGHTS: Weights = {}
NO_ARRAYS: Mapping[str, Array] = {}


def open_engines(bundle: Bundle, variant: str = "cpu", *, frugal: bool = False) -> dict[str, Engine]:
    """An engine for each component of the bundle; see `latentrt.engines.open_engines`."""
    return {name: engine_of(bundle, name, variant, frugal=frugal) for name in bundle.manifest.components}


def engine_of(bundle: Bundle, name: str, variant: str, *, frugal: bool = False) -> OnnxRuntimeEngine:
    """The engine for one component: on what was optimised for this processor, if that was done."""
    component = bundle.manifest.components[name]
    built = graph_of(bundle, name) if variant == "cpu" else None
    graph = built or bundle.path(component.file)
    return OnnxRuntimeEngine(name, component, graph, variant, optimised=built is not None, frugal=frugal)


def open_changed(
    bundle: Bundle, weights: Mapping[str, Weights], variant: str = "cpu", *, frugal: bool = False
) -> dict[str, Engine]:
    """An engine for each component that weights are changed of; see `latentrt.engines.open_changed`.

    What was optimised for this processor has its weights packed: these run the canonical graph.
    """
    components = bundle.manifest.components
    return {
        name: OnnxRuntimeEngine(
            name, components[name], bundle.path(components[name].file), variant, frugal=frugal, weights=changed
        )
        for name, changed in weights.items()
    }


def open_engine(name: str, component: Component, folder: Path, variant: str = "cpu") -> OnnxRuntimeEngine:
    """The engine for one component; see `latentrt.engines.open_engine`."""
    return OnnxRuntimeEngine(name, component, folder / component.file, variant)


class OnnxRuntimeEngine:
    """One ONNX Runtime session, made on first use.

    optimised: whether the graph is one of `optimised.graph_of`. frugal: whether memory goes back after every call.
    weights: what stands in for initialisers of the graph.
    """

    def __init__(
        self,
        name: str,
        component: Component,
        path: Path,
        variant: str = "cpu",
        *,
        optimised: bool = False,
        frugal: bool = False,
        weights: Weights = NO_WEIGHTS,
    ) -> None:
        self.name, self.component, self.path, self.variant = name, component, path, variant
        self.optimised, self.frugal, self.weights = optimised, frugal, weights
        self.session: InferenceSession | None = None
        self.held: Mapping[str, Array] = {}
        self.lock = threading.Lock()  # of what is loaded; calls run beside each other, which a session is made for

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name. Raises ShapeError for feeds that do not fit, EngineError if the run fails."""
        sizes = check(self.component.inputs, feeds, self.name)
        names = [spec.name for spec in self.component.outputs]
        session, _held = self.loaded()  # which another thread may unload meanwhile
        try:
            outputs = session.run(names, dict(feeds))
        except Exception as error:  # ONNX Runtime's own errors share no base but Exception
            raise failure(f"{self.name}: ONNX Runtime failed with {sizes}: {one_line(error)}", error) from error
        return dict(zip(names, outputs, strict=True))

    def load(self) -> None:
        """Makes the session. Raises EngineError if ONNX Runtime refuses the graph."""
        self.loaded()

    def loaded(self) -> tuple[InferenceSession, Mapping[str, Array]]:
        """The session, made if need be, and the weights that have to live as long. Raises EngineError as `load`."""
        with self.lock:
            if self.session is None:
                held = {name: weight.read() for name, weight in self.weights.items()}
                self.session = new_session(
                    self.path, self.variant, optimised=self.optimised, frugal=self.frugal, weights=held
                )
                self.held = held
            return self.session, self.held

    def unload(self) -> None:
        """Drops the session; its memory goes back to the system, once calls in other threads are done."""
        with self.lock:
            self.session, self.held = None, {}

    def close(self) -> None:
        """The same as `unload`: a session holds nothing else, and a later call would make it again."""
        self.unload()


def new_session(
    path: Path,
    variant: str = "cpu",
    *,
    optimised: bool = False,
    frugal: bool = False,
    weights: Mapping[str, Array] = NO_ARRAYS,
) -> InferenceSession:
    """A session of a graph, which is run as it is if it is `optimised`; `frugal` as in `OnnxRuntimeEngine`.

    weights: what stands in for initialisers; the session does not hold them, so they have to live as long.
    Raises EngineError if it cannot be made, or would not run as asked.
    """
    onnxruntime = telemetry.onnxruntime()
    options = new_options()
    if optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = not frugal  # an arena grows by doubling: 3.2 GB for a decoder that needs 1.6
    if frugal:
        return_memory()
    source = exchanged(path, weights, options) if weights else path
    providers = PROVIDERS[variant]
    check_available(providers, onnxruntime)
    if variant != "cpu":
        options.add_session_config_entry(ASSIGNMENT, "1")
        preload(onnxruntime)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=list(providers.items()), enable_fallback=0)
        session._model_bytes = None  # kept for a fallback that is off: the whole graph once more
    except Exception as error:  # ONNX Runtime's own errors share no base but Exception
        raise failure(
            f"{path}: ONNX Runtime cannot load it: {one_line(error)}; check it with `latentrt verify`", error
        ) from error
    check_active(providers, session)
    if variant != "cpu":
        check_assigned(path, session)
    return session


def exchanged(path: Path, weights: Mapping[str, Array], options: SessionOptions) -> Path | bytes:
    """What a session is made of that has these weights in place of the graph's, before it folds or packs any.

    ONNX Runtime takes others only for weights beside the graph; those in it are exchanged in a copy, which looks for
    the rest in its folder. Its `add_initializer` takes both, but leaves the old ones to what is rewritten at load, such
    as convolutions.
    """
    content, outside = with_weights(path, weights), beside(path, weights)
    if outside:
        values = [telemetry.onnxruntime().OrtValue.ortvalue_from_numpy(array) for array in outside.values()]
        options.add_external_initializers(list(outside), values)
    if content is not None:
        options.add_session_config_entry(EXTERNAL_FOLDER, str(path.parent))
    return content or path


def new_options() -> SessionOptions:
    """Options of a session with one thread a usable core."""
    options: SessionOptions = telemetry.onnxruntime().SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads may spin between the operators of a run, not after it: sessions share the cores with each other.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def return_memory() -> None:
    """Has the C library give blocks of a MB and more back to the system as soon as they are free, where it is glibc.

    Before 2.38 it rarely reuses aligned ones (sourceware.org/bugzilla/show_bug.cgi?id=14581), as ONNX Runtime's are.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another library than glibc has no mallopt
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)


def preload(onnxruntime: Any) -> None:
    """Loads NVIDIA's libraries that pip installed, where the system's loader does not look. Before 1.21 it cannot."""
    if hasattr(onnxruntime, "preload_dlls"):
        with telemetry.importing, redirect_stdout(sys.stderr):  # where it prints what it cannot load
            onnxruntime.preload_dlls()


def check_available(providers: Iterable[str], onnxruntime: Any) -> None:
    """Raises EngineError unless this build of ONNX Runtime has all these providers."""
    available = onnxruntime.get_available_providers()
    missing = [provider for provider in providers if provider not in available]
    if missing:
        raise EngineError(
            f"ONNX Runtime {onnxruntime.__version__} has {', '.join(available)}, expected {', '.join(missing)}; "
            f"{ENGINES['cuda'].install}; or use --engine cpu"
        )


def check_active(providers: Iterable[str], session: InferenceSession) -> None:
    """Raises EngineError if ONNX Runtime left one of the providers out, which it does with a line in its log."""
    active = session.get_providers()
    missing = [provider for provider in providers if provider not in active]
    if missing:
        raise EngineError(
            f"ONNX Runtime could not start {', '.join(missing)} and fell back to {', '.join(active)}; its CUDA, cuDNN "
            "or TensorRT libraries or the driver do not fit: see `nvidia-smi`, `latentrt doctor`, or use --engine cpu"
        )


def check_assigned(path: Path, session: InferenceSession) -> None:
    """Raises EngineError if a part of the model itself would run on the CPU. Before version 1.24 nothing tells."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return
    parts = session.get_provider_graph_assignment_info()
    left = {node.op_type for part in parts if part.ep_name == "CPUExecutionProvider" for node in part.get_nodes()}
    if found := sorted(left & HEAVY):
        raise EngineError(
            f"{path}: ONNX Runtime would run {', '.join(found)} on the CPU, for which its NVIDIA providers have no "
            "kernel of this type; export with --precision fp32 or fp16, or use --engine cpu or tensorrt"
        )
