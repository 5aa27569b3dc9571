"""Every name and call of NVIDIA's software in the code, checked against the real packages, without a GPU.

The uses are read from the sources, so that the list cannot go stale: attributes of `trt`, and methods and attributes of
variables that are called after what they hold, such as `context`. The stand-in is held to the same.
"""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from latentrt.engines.nvidia.bindings import VARIANTS
from tests.runtime.engines import standin

RUNTIME = pytest.importorskip("cuda.bindings.runtime", reason="pip install cuda-bindings")
RTX = pytest.importorskip(
    "tensorrt_rtx_bindings", reason="pip install --no-deps tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings"
)
LEAN = pytest.importorskip(
    "tensorrt_lean_bindings", reason="pip install --no-deps tensorrt-lean-cu13-libs tensorrt-lean-cu13-bindings"
)

CHECKOUT = Path(__file__).parents[3]
NVIDIA = CHECKOUT / "runtime/latentrt/engines/nvidia"
RUNNING = [NVIDIA / f"{name}.py" for name in ("bindings", "execution", "engine", "gpu")]
BUILDING = sorted((CHECKOUT / "export/latentrt_export/build").glob("[!_]*.py"))

# Classes of the objects in variables and attributes of these names.
CLASSES = {
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "config": "IRuntimeConfig",
    "cache": "IRuntimeCache",
    "refitter": "Refitter",
    "parser": "OnnxParserRefitter",
}
BUILDER_CLASSES = {
    "maker": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
}
# In the sources these names also mean our own objects, which have these.
OURS = {"cache", "load", "profile", "save", "error", "shapes", "on_host"}


def uses_of(files, classes):
    """(class, name, number of arguments or None) of every use of a variable or attribute named in `classes`."""
    found = set()
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        calls = {
            id(node.func): len(node.args) + len(node.keywords) for node in ast.walk(tree) if isinstance(node, ast.Call)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                owner = node.value
                name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", None)
                if name in classes:
                    found.add((classes[name], node.attr, calls.get(id(node))))
    return found


def chains_of(files):
    """Every dotted name that begins with `trt`, such as "TensorIOMode.INPUT"."""
    chains = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            parts = []
            while isinstance(node, ast.Attribute):
                parts.append(node.attr)
                node = node.value
            if parts and (getattr(node, "id", None) == "trt"):
                chains.add(".".join(reversed(parts)))
    return {chain for chain in chains if not any(other.startswith(f"{chain}.") for other in chains)}


def arities(method):
    """The numbers of arguments of a bound method: (least, most) per overload, from its signatures."""
    counts = []
    for line in (method.__doc__ or "").splitlines():
        signature = re.match(r"\s*(?:\d+\. )?\w+\(self: [^,)]+(?:, (.*))?\) -> ", line)
        if signature:
            parameters = re.sub(r"\[[^\]]*\]|<[^>]*>", "", signature[1] or "")
            given = [parameter for parameter in parameters.split(", ") if parameter]
            counts.append((sum("=" not in parameter for parameter in given), len(given)))
    return counts


def resolved(module, chain):
    value = module
    for part in chain.split("."):
        value = getattr(value, part)
    return value


def missing_from(module, uses):
    """The uses in the code that the module's classes lack, or do not have with that number of arguments."""
    wrong = []
    for name, attribute, arguments in sorted(uses, key=str):
        member = getattr(getattr(module, name, None), attribute, None)
        counts = arities(member) if arguments is not None and member is not None else []
        fits = member is not None and (not counts or any(low <= arguments <= high for low, high in counts))
        if not fits:
            wrong.append((name, attribute))
    return wrong


@pytest.fixture(scope="module")
def running():
    return {use for use in uses_of(RUNNING, CLASSES) if use[1] not in OURS}


def test_the_uses_are_found(running):
    """Shows that the sources are read."""
    names = {(name, attribute) for name, attribute, _ in running}
    assert len(names) >= 20
    assert {("Runtime", "deserialize_cuda_engine"), ("IExecutionContext", "execute_async_v3")} <= names
    assert {"TensorIOMode.INPUT", "ExecutionContextAllocationStrategy.USER_MANAGED"} <= chains_of(RUNNING)


def test_arguments_are_counted():
    assert arities(RTX.IExecutionContext.set_device_memory) == [(2, 2)]
    assert arities(RTX.IExecutionContext.set_input_shape) == [(2, 2)] * 3
    assert arities(RTX.ICudaEngine.create_execution_context) == [(0, 1)] * 2
    assert missing_from(RTX, {("IExecutionContext", "execute_async_v3", 2), ("IExecutionContext", "enqueue", 1)}) == [
        ("IExecutionContext", "enqueue"),
        ("IExecutionContext", "execute_async_v3"),
    ]


def test_running_on_tensorrt_rtx(running):
    assert missing_from(RTX, running) == []


def test_running_on_classic_tensorrt(running):
    """The lean runtime lacks the parser, and what only a compiling runtime needs; the code uses that only if `jit`."""
    assert missing_from(LEAN, running) == [
        ("IExecutionContext", "is_stream_capturable"),
        ("IRuntimeCache", "deserialize"),
        ("IRuntimeCache", "serialize"),
        ("IRuntimeConfig", "create_runtime_cache"),
        ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"),
        ("IRuntimeConfig", "set_runtime_cache"),
        ("OnnxParserRefitter", "refit_from_file"),
    ]


@pytest.mark.parametrize("chain", sorted(chains_of(RUNNING)))
def test_names_of_the_runtime(chain):
    modules = {"RTX": RTX, "LEAN": LEAN}
    if chain.startswith(("DynamicShapesKernelSpecializationStrategy.", "OnnxParserRefitter")):
        del modules["LEAN"]  # used only where `jit` says so, or by what reads graphs
    for module in modules.values():
        resolved(module, chain)


@pytest.mark.parametrize("chain", sorted(chains_of(BUILDING)))
def test_names_of_the_builder(chain):
    """The lean package has no builder; names that both packages have are looked up in both."""
    resolved(RTX, chain)
    if hasattr(LEAN, chain.partition(".")[0]):
        resolved(LEAN, chain)


def test_building():
    uses = {use for use in uses_of(BUILDING, BUILDER_CLASSES) if hasattr(RTX, use[0])}
    uses = {use for use in uses if use[1] not in OURS}
    assert ("OnnxParser", "parse_from_file", 1) in uses
    assert missing_from(RTX, uses) == []


def test_the_versions_are_among_those_that_are_taken():
    from latentrt.engines.nvidia.bindings import version_of

    for module, variant in ((RTX, VARIANTS["tensorrt-rtx"]), (LEAN, VARIANTS["tensorrt"])):
        assert module.__name__ in variant.modules
        assert variant.oldest <= version_of(module.__version__) < variant.below
        assert importlib.import_module(module.__name__) is module


def test_lines_of_the_real_logger():
    """A subclass of the real ILogger; the builder logs through it from C++."""
    from latentrt.engines.nvidia.bindings import LogCapture

    lines = LogCapture(RTX)
    builder = RTX.Builder(lines.logger)
    network = builder.create_network(1 << int(RTX.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = RTX.OnnxParser(network, lines.logger)
    assert not parser.parse_from_file("missing.onnx")
    assert "missing.onnx" in lines.drain()
    assert lines.drain() == "it gave no reason"


FUNCTIONS = {
    node.args[0].value: len(node.args) - 1
    for node in ast.walk(ast.parse((NVIDIA / "cuda.py").read_text(encoding="utf-8")))
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "call" and isinstance(node.args[0], ast.Constant)
}


@pytest.mark.parametrize(("function", "arguments"), FUNCTIONS.items(), ids=FUNCTIONS.keys())
def test_functions_of_cuda(function, arguments):
    first = getattr(RUNTIME, function).__doc__.splitlines()[0]
    signature = re.fullmatch(rf"{function}\((.*)\)", first)
    assert signature, first
    parameters = [parameter for parameter in signature[1].split(", ") if parameter]
    assert len([parameter for parameter in parameters if "=" not in parameter]) <= arguments <= len(parameters)
    with_self = len(inspect.signature(getattr(standin.Cuda, function)).parameters)
    assert with_self == arguments + 1


def test_names_of_cuda():
    tree = ast.parse((NVIDIA / "cuda.py").read_text(encoding="utf-8"))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("cuda")}
    assert {"cudaSuccess", "cudaHostAllocMapped", "cudaStreamCaptureModeThreadLocal"} <= names
    enums = (RUNTIME.cudaError_t, RUNTIME.cudaMemcpyKind, RUNTIME.cudaStreamCaptureMode)
    assert [name for name in names if not any(hasattr(place, name) for place in (RUNTIME, *enums))] == []
    for name in ("name", "major", "minor", "integrated"):
        assert hasattr(RUNTIME.cudaDeviceProp, name)


def members(own):
    return {name for name in vars(own) if not name.startswith("_")}


# Names that the stand-in has for its own use and for tests.
EXTRA = {
    "Cuda": {"allocate", "assert_all_freed", "bytes_at", "pending", "release"},
    "Runtime": set(),
    "Engine": set(),
    "Context": {"array", "refuse"},
    "RuntimeConfig": set(),
    "RuntimeCache": {"content"},
    "Refitter": set(),
    "OnnxParserRefitter": set(),
}


@pytest.mark.parametrize(
    ("own", "real"),
    [
        (standin.Cuda, RUNTIME),
        (standin.Runtime, RTX.Runtime),
        (standin.Engine, RTX.ICudaEngine),
        (standin.Context, RTX.IExecutionContext),
        (standin.RuntimeConfig, RTX.IRuntimeConfig),
        (standin.RuntimeCache, RTX.IRuntimeCache),
        (standin.Refitter, RTX.Refitter),
        (standin.OnnxParserRefitter, RTX.OnnxParserRefitter),
    ],
)
def test_the_stand_in_promises_nothing_that_is_not_there(own, real):
    names = members(own) - EXTRA[own.__name__]
    assert names
    for name in names:
        assert hasattr(real, name), name
        if inspect.isfunction(vars(own)[name]) and own is not standin.Cuda:
            count = len(inspect.signature(vars(own)[name]).parameters) - 1
            counts = arities(getattr(real, name))
            assert counts and any(low <= count <= high for low, high in counts), name


@pytest.mark.parametrize(
    "enum",
    [
        standin.ExecutionContextAllocationStrategy,
        standin.TensorIOMode,
        standin.TensorLocation,
        standin.DynamicShapesKernelSpecializationStrategy,
    ],
)
def test_the_stand_ins_enums_are_the_real_ones(enum):
    real = getattr(RTX, enum.__name__).__members__
    assert {name: int(member) for name, member in real.items()} == {member.name: member.value for member in enum}


def test_the_stand_ins_severities_are_the_real_ones():
    assert {severity.name for severity in standin.Severity} == set(RTX.ILogger.Severity.__members__)


@pytest.mark.parametrize("error", standin.cudaError_t)
def test_the_stand_ins_errors_are_the_real_ones(error):
    assert getattr(RUNTIME.cudaError_t, error.name) == error.value
