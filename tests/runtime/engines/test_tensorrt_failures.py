"""Failures of the TensorRT engine on the stand-in: the error messages, and later calls that succeed."""

import logging
import sys

import numpy as np
import pytest

from latentrt.engines import open_engines
from latentrt.engines.nvidia import gpu as gpus
from latentrt.engines.nvidia.plans import plan_store
from latentrt.errors import EngineError
from tests.runtime.engines import standin
from tests.runtime.engines.standin_plans import SIZES, build, feeds_of, key_of


def test_what_the_runtime_logs_is_in_the_error(bundle, trt):
    key = key_of(bundle, "time_bias")
    plan_store(bundle.folder).build(key, lambda path: [path.write_bytes(b"signed, but no plan"), None][1])
    with pytest.raises(EngineError) as caught:
        open_engines("tensorrt", bundle)["time_bias"].load()
    assert "time_bias: tensorrt cannot load the plan " in str(caught.value)
    assert ": deserialization failed: magic tag does not match; " in str(caught.value)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("cudaErrorNoDevice", "no NVIDIA GPU is visible; check `nvidia-smi`"),
        ("cudaErrorInsufficientDriver", "the NVIDIA driver is missing or older"),
    ],
)
def test_without_a_gpu(bundle, trt, cuda, error, says):
    cuda.absent = standin.cudaError_t[error]
    with pytest.raises(EngineError) as caught:
        open_engines("tensorrt", bundle)["unet"](feeds_of(bundle, "unet", SIZES))
    assert f"CUDA: cudaGetDevice failed with {error}; {says}" in str(caught.value)


def test_too_little_memory(bundle, trt, cuda):
    build(bundle, "unet")
    trt.activations = {"unet": 1 << 30}
    cuda.capacity = 1 << 29
    engine = open_engines("tensorrt", bundle)["unet"]
    with pytest.raises(EngineError, match=r"too little GPU memory; close other programs.*requested 1073\.7 MB"):
        engine(feeds_of(bundle, "unet", SIZES))
    cuda.capacity = 1 << 31
    engine(feeds_of(bundle, "unet", SIZES))
    engine.close()
    cuda.assert_all_freed()


def test_too_little_memory_for_buffers_leaves_none_behind(bundle, trt, cuda):
    build(bundle, "unet")
    cuda.capacity = 1000
    engine = open_engines("tensorrt", bundle)["unet"]
    with pytest.raises(EngineError, match="too little GPU memory"):
        engine(feeds_of(bundle, "unet", SIZES))
    engine.close()
    cuda.assert_all_freed()


@pytest.mark.parametrize("version", ["8.6.1", "10.2.0.post1", "12.0.0"])
def test_a_wrong_version(bundle, trt, home, monkeypatch, version):
    trt.__version__ = version
    trt.install(monkeypatch, home)
    with pytest.raises(EngineError) as caught:
        open_engines("tensorrt", bundle)["unet"].load()
    assert str(caught.value).startswith(
        f"tensorrt: got version {version} of tensorrt, expected 10.3 or later, before 12.0; run `pip install"
    )


def test_bindings_whose_library_is_missing(bundle, trt, home, monkeypatch):
    (home / "tensorrt").mkdir()
    (home / "tensorrt/__init__.py").write_text('raise OSError("libnvinfer.so.10: cannot open shared object file")')
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.syspath_prepend(str(home))
    with pytest.raises(EngineError, match=r"tensorrt is installed but cannot be imported \(libnvinfer.so.10: "):
        open_engines("tensorrt", bundle)["unet"].load()


def test_without_the_cuda_bindings(bundle, trt, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(EngineError, match=r"needs cuda-python .*pip install 'latentrt\[tensorrt\]'"):
        open_engines("tensorrt", bundle)["unet"].load()


def test_a_failed_call_does_not_spoil_the_next(bundle, trt, cuda):
    build(bundle, "unet")
    engine = open_engines("tensorrt", bundle)["unet"]
    feeds = feeds_of(bundle, "unet", SIZES)
    feeds["cross_kv"].flags.writeable = False
    engine(feeds)
    original = standin.Context.execute_async_v3
    try:
        standin.Context.execute_async_v3 = lambda context, stream: context.refuse("no luck")
        engine.last.drop_graph()
        with pytest.raises(EngineError, match=r"unet: tensorrt failed with .*: no luck"):
            engine(feeds | {"sample": feeds["sample"] * 3})
    finally:
        standin.Context.execute_async_v3 = original
    assert np.array_equal(engine(feeds)["prediction"], trt.answers["unet"](feeds)["prediction"])


def test_messages_of_the_runtime_go_to_logging(bundle, trt, caplog):
    with caplog.at_level(logging.DEBUG, "latentrt.engines.nvidia.bindings"):
        gpu = gpus.Gpu(gpus.RuntimeVariant("tensorrt", ("tensorrt",), (10, 3), (12, 0), ""))
        gpu.acquire()
        gpu.log_capture.logger.log(standin.Severity.INFO, "loaded engine size: 5 MiB")
        gpu.release()
    assert "INFO: loaded engine size: 5 MiB" in caplog.text
    assert gpu.log_capture.drain() == "it gave no reason"
