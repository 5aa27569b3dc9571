"""Without a GPU, CUDA and ONNX Runtime's NVIDIA providers raise errors that name the next step."""

import sys
import warnings
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

import latentrt
from latentrt.bundle.catalog import MODELS
from latentrt.engines import ENGINES, EngineKind
from latentrt.engines.nvidia import cuda
from latentrt.engines.onnx.session import (
    ASSIGNMENT,
    PROVIDERS,
    check_active,
    check_assigned,
    check_available,
    new_session,
)
from latentrt.errors import EngineError
from tests.runtime.engines import standin

GRAPH = MODELS / "emoji/time_bias.onnx"


@pytest.fixture
def fake(monkeypatch):
    fake = standin.Cuda()
    monkeypatch.setattr(cuda, "bindings", lambda: fake)
    return fake


def test_the_real_bindings_without_a_driver():
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="pip install cuda-bindings")
    if runtime.cudaGetDeviceCount()[0] == runtime.cudaError_t.cudaSuccess:
        assert cuda.current_device().sm.startswith("sm")
        return
    with pytest.raises(EngineError, match=r"CUDA: cudaGetDevice failed with cudaError\w+; .*--engine cpu"):
        cuda.current_device()


def test_an_error_without_advice(fake):
    stream = cuda.Stream()
    fake.cudaStreamBeginCapture(stream.handle, standin.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
    with pytest.raises(EngineError) as caught:
        stream.synchronize()
    assert str(caught.value) == (
        "CUDA: cudaStreamSynchronize failed with cudaErrorStreamCaptureUnsupported; see `latentrt doctor`"
    )


def test_bindings_that_find_no_driver_library(monkeypatch):
    def missing():
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setattr(cuda, "bindings", lambda: SimpleNamespace(cudaGetDevice=missing))
    with pytest.raises(EngineError, match=r"cudaGetDevice failed \(Failed to dlopen libcuda.so.1\); the NVIDIA driver"):
        cuda.current_device()


@pytest.mark.parametrize("integrated", [False, True])
def test_a_buffer_goes_there_and_back(fake, integrated):
    stream, buffer = cuda.Stream(), cuda.Buffer(24, integrated=integrated)
    view = buffer.view((2, 3), np.dtype(np.float32))
    view[...] = expected = np.arange(6, dtype=np.float32).reshape(2, 3)
    buffer.upload(24, stream)
    stream.synchronize()
    assert (buffer.address == buffer.host_address) is integrated
    if not integrated:
        view[...] = 0
    buffer.download(24, stream)
    stream.synchronize()
    assert np.array_equal(view, expected)
    buffer.close()
    buffer.close()
    stream.close()
    fake.assert_all_freed()


def test_a_capture_that_fails_ends_the_capture(fake):
    stream = cuda.Stream()

    def fail():
        raise EngineError("no luck")

    with pytest.raises(EngineError, match="no luck"):
        stream.capture(fail)
    stream.synchronize()
    graph = stream.capture(lambda: None)
    graph.close()
    stream.close()
    fake.assert_all_freed()


@pytest.mark.parametrize("name", ["cuda", "cuda-tensorrt"])
def test_onnx_runtime_without_nvidia_providers(name):
    if ENGINES[name].installed:
        pytest.skip("onnxruntime-gpu is installed here")
    with pytest.raises(EngineError, match=rf"engine '{name}' needs onnxruntime with capi/.*: run `pip install"):
        latentrt.load("emoji", engine=name)


@pytest.mark.parametrize("variant", ["cuda", "cuda-tensorrt"])
def test_a_session_without_its_providers_is_refused(variant):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed here")
    with pytest.raises(EngineError) as caught:
        new_session(GRAPH, variant)
    assert f"expected {', '.join(PROVIDERS[variant])}; run `pip install 'latentrt[cuda]'`, after `pip uninstall" in str(
        caught.value
    )


@pytest.mark.parametrize("variant", ["cuda", "cuda-tensorrt"])
def test_a_session_that_fell_back_to_the_cpu_is_refused(variant, monkeypatch):
    """The real ONNX Runtime, made to believe that it has the providers: it warns and opens a session on the CPU."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed here")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(PROVIDERS[variant]))
    with warnings.catch_warnings(), pytest.raises(EngineError) as caught:
        warnings.simplefilter("ignore")
        new_session(GRAPH, variant)
    assert str(caught.value).startswith(
        f"ONNX Runtime could not start {', '.join(PROVIDERS[variant])} and fell back to CPUExecutionProvider; "
    )


def test_a_session_as_asked_for_is_taken():
    active = SimpleNamespace(get_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    check_active(PROVIDERS["cuda"], active)
    with pytest.raises(EngineError, match="could not start TensorrtExecutionProvider"):
        check_active(PROVIDERS["cuda-tensorrt"], active)
    check_available(PROVIDERS["onnxruntime"], onnxruntime)
    assert new_session(GRAPH).get_providers() == ["CPUExecutionProvider"]


def test_a_model_that_would_run_on_the_cpu_is_refused():
    """Shapes may be computed on the CPU, matrix products may not."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(ASSIGNMENT, "1")
    session = onnxruntime.InferenceSession(GRAPH, options, providers=["CPUExecutionProvider"])
    if not hasattr(session, "get_provider_graph_assignment_info"):
        pytest.skip("this version of ONNX Runtime does not tell")
    with pytest.raises(EngineError, match=r"time_bias.onnx: ONNX Runtime would run (Gemm|MatMul).* on the CPU,"):
        check_assigned(GRAPH, session)
    node = SimpleNamespace(op_type="Shape")
    part = SimpleNamespace(ep_name="CPUExecutionProvider", get_nodes=lambda: [node])
    check_assigned(GRAPH, SimpleNamespace(get_provider_graph_assignment_info=lambda: [part]))
    check_assigned(GRAPH, SimpleNamespace())


def test_engines_come_under_several_names(tmp_path, monkeypatch):
    kind = EngineKind("module", "first_name", "extra", alternatives=("second_name",), file="lib/a.so")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert kind.found is None
    (tmp_path / "second_name/lib").mkdir(parents=True)
    (tmp_path / "second_name/__init__.py").touch()
    sys.path_importer_cache.clear()
    assert not kind.installed
    (tmp_path / "second_name/lib/a.so").touch()
    assert kind.found == "second_name"
    assert kind.needs == "first_name with lib/a.so"
