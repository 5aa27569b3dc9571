"""Sessions of ONNX Runtime, on the CPU or an NVIDIA GPU. External weights stay memory-mapped, and idle threads sleep.

On a GPU, a session that would compute on the CPU is an error: its results are right, but it is ten times slower.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentrt.device.cores import usable_cores
from latentrt.engines import ENGINES, failure, telemetry
from latentrt.engines.artifacts import one_line
from latentrt.engines.onnx.branches import Branches, factors_of, with_branches
from latentrt.engines.onnx.initializers import Override, external_overrides, patched_graph
from latentrt.errors import EngineError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions


# Execution providers of each engine, preferred ones first, with their non-default options.
CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC"}
PROVIDERS: dict[str, dict[str, dict[str, str]]] = {
    "onnxruntime": {"CPUExecutionProvider": {}},
    "cuda": {"CUDAExecutionProvider": CUDA_OPTIONS},
    # Its engines are not cached, because ONNX Runtime loads them without a signature.
    "cuda-tensorrt": {"TensorrtExecutionProvider": {}, "CUDAExecutionProvider": CUDA_OPTIONS},
}
# The same for sessions whose calls are captured as CUDA graphs.
GRAPH_PROVIDERS = {"cuda": {"CUDAExecutionProvider": {**CUDA_OPTIONS, "enable_cuda_graph": "1"}}}

# Operators that compute activations. Operators that compute shapes may run on the CPU, these may not.
HEAVY = {"Conv", "ConvTranspose", "Gemm", "MatMul", "InstanceNormalization", "LayerNormalization", "Resize", "Softmax"}
# From glibc's malloc.h.
M_MMAP_THRESHOLD = -3
ASSIGNMENT = "session.record_ep_graph_assignment_info"
# Session option: the folder of external weights, for a graph given as bytes.
EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
NO_OVERRIDES: Mapping[str, Override] = {}
NO_BRANCHES: Branches = {}
CPU = "onnxruntime"
# Session option: products with 4-bit weights take their input as it is. By default it is rounded to 8 bits, which costs
# 0.5 % of the output, half as much memory more than the weights, and gains no time without VNNI.
NBITS_ACCURACY = ("session.qdq_matmulnbits_accuracy_level", "0")


def new_session(
    path: Path,
    engine: str = CPU,
    *,
    optimised: bool = False,
    low_memory: bool = False,
    overrides: Mapping[str, Override] = NO_OVERRIDES,
    branches: Branches = NO_BRANCHES,
    graphs: bool = False,
) -> InferenceSession:
    """A new session of a graph. optimised, low_memory: as in `OnnxRuntimeEngine`.

    overrides: tensors by initialiser. branches: by the value that each is added to. The arrays of both must outlive the
    session, which does not own them. graphs: for calls that are captured as CUDA graphs. Raises EngineError if the
    session cannot be created, or would not run on the engine's providers.
    """
    options = session_options(optimised=optimised, low_memory=low_memory)
    source = changed_source(path, overrides, branches, options) if overrides or branches else path
    providers = (GRAPH_PROVIDERS if graphs else PROVIDERS)[engine]
    check_available(providers, telemetry.onnxruntime())
    if engine != CPU:
        options.add_session_config_entry(ASSIGNMENT, "1")
        preload(telemetry.onnxruntime())
    session = open_session(path, source, options, providers)
    check_active(providers, session)
    if engine != CPU:
        check_assigned(path, session)
    return session


def session_options(*, optimised: bool, low_memory: bool) -> SessionOptions:
    """Options of a session. optimised: do not optimise the graph again. low_memory: no arena, so memory is freed."""
    options = new_options()
    if optimised:
        options.graph_optimization_level = telemetry.onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = not low_memory  # an arena grows by doubling: 3.2 GB for a decoder that needs 1.6
    if low_memory:
        free_large_blocks()
    return options


def open_session(
    path: Path, source: Path | bytes, options: SessionOptions, providers: Mapping[str, dict[str, str]]
) -> InferenceSession:
    """The session of the graph at `path`, or of its bytes. Raises EngineError if ONNX Runtime refuses it."""
    try:
        session = telemetry.onnxruntime().InferenceSession(
            source, options, providers=list(providers.items()), enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's own errors share no base but Exception
        raise failure(
            f"{path}: ONNX Runtime cannot load it: {one_line(error)}; check it with `latentrt verify`", error
        ) from error
    session._model_bytes = None  # a second copy of the whole graph, for a fallback that is off
    opened: InferenceSession = session
    return opened


def changed_source(
    path: Path, overrides: Mapping[str, Override], branches: Branches, options: SessionOptions
) -> Path | bytes:
    """The source of a session whose graph is changed before ONNX Runtime fuses, folds or packs anything.

    ONNX Runtime can override only weights in files beside the graph. Weights inside the graph are replaced in a copy of
    it, which reads the other weights from its folder. `add_initializer` accepts both kinds, but graph rewrites at load,
    such as those of convolutions, still use the old weights.
    """
    content, external = patched_graph(path, overrides), external_overrides(path, overrides) | factors_of(branches)
    if branches:
        content = with_branches(content or path.read_bytes(), branches)
    if external:
        values = [telemetry.onnxruntime().OrtValue.ortvalue_from_numpy(array) for array in external.values()]
        options.add_external_initializers(list(external), values)
    if content is not None:
        options.add_session_config_entry(EXTERNAL_FOLDER, str(path.parent))
    return content or path


def new_options() -> SessionOptions:
    """Options of a session with one thread per usable core."""
    options: SessionOptions = telemetry.onnxruntime().SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads may spin between the operators of a run, but not after it: sessions share the cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry(*NBITS_ACCURACY)
    return options


def free_large_blocks() -> None:
    """Makes glibc return freed blocks of 1 MB or more to the system at once; no effect with another C library.

    ONNX Runtime's blocks are aligned, and glibc before 2.38 rarely reuses aligned blocks
    (sourceware.org/bugzilla/show_bug.cgi?id=14581).
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another library than glibc has no mallopt
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)


def preload(onnxruntime: Any) -> None:
    """Loads NVIDIA libraries that pip installed, which the system's loader does not find. Needs ONNX Runtime 1.21."""
    if hasattr(onnxruntime, "preload_dlls"):
        with telemetry.importing, redirect_stdout(sys.stderr):  # it prints the libraries that it cannot load
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
    """Raises EngineError if the session lacks one of the providers; ONNX Runtime only logs that."""
    active = session.get_providers()
    missing = [provider for provider in providers if provider not in active]
    if missing:
        raise EngineError(
            f"ONNX Runtime could not start {', '.join(missing)} and fell back to {', '.join(active)}; its CUDA, cuDNN "
            "or TensorRT libraries or the driver do not fit: see `nvidia-smi`, `latentrt doctor`, or use --engine cpu"
        )


def check_assigned(path: Path, session: InferenceSession) -> None:
    """Raises EngineError if operators in HEAVY would run on the CPU. Checks nothing before ONNX Runtime 1.24."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return
    parts = session.get_provider_graph_assignment_info()
    on_cpu = {node.op_type for part in parts if part.ep_name == "CPUExecutionProvider" for node in part.get_nodes()}
    if found := sorted(on_cpu & HEAVY):
        raise EngineError(
            f"{path}: ONNX Runtime would run {', '.join(found)} on the CPU, for which its NVIDIA providers have no "
            "kernel of this type; export with --precision fp32 or fp16, or use --engine cpu or tensorrt"
        )
