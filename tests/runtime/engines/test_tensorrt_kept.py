"""Outputs that stay on the GPU of a TensorRT engine, on the stand-in; the numbers are ONNX Runtime's."""

import gc

import numpy as np
import pytest

import latentrt
from latentrt.engines import open_engines
from latentrt.engines.keeping import keep
from tests.runtime.engines import standin
from tests.runtime.engines.standin_plans import SIZES, VERSION, build_all, feeds_of

FEATURES = "deep_features"


@pytest.fixture
def engines(bundle, trt):
    build_all(bundle)
    opened = open_engines("tensorrt", bundle)
    yield opened
    for engine in opened.values():
        engine.close()


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("integrated", [False, True])
def test_pictures_with_a_step_cache_are_those_of_the_cpu(bundle, answers, home, monkeypatch, integrated, order):
    cuda = standin.Cuda(integrated=integrated)
    trt = standin.TensorRT(cuda, bundle.manifest.components, answers, version=VERSION)
    trt.install(monkeypatch, home)
    build_all(bundle)
    options = {"steps": 5, "seed": 7, "width": 64, "height": 48, "cache": 2, "cache_order": order}
    with latentrt.load("emoji", engine="tensorrt", verify=False) as pipeline, latentrt.load("emoji") as cpu:
        got, expected = (each.generate("a red apple", **options).images[0] for each in (pipeline, cpu))
        assert np.array_equal(np.asarray(got), np.asarray(expected))
    gc.collect()
    cuda.assert_all_freed()


def test_a_kept_output_is_not_copied_to_the_host_and_back(bundle, trt, cuda, engines):
    feeds = feeds_of(bundle, "unet", SIZES)
    outputs = keep(engines["unet"], feeds, [FEATURES])
    expected = trt.answers["unet"](feeds)
    kept = outputs[FEATURES]
    assert isinstance(outputs["prediction"], np.ndarray) and not isinstance(kept, np.ndarray)
    assert (kept.shape, kept.ndim, kept.dtype) == (expected[FEATURES].shape, 4, np.float32)
    shallow = feeds_of(bundle, "unet_shallow", SIZES)
    given = shallow | {FEATURES: kept}
    rest = sum(feed.nbytes for name, feed in shallow.items() if name != FEATURES)
    before = cuda.copied
    got = engines["unet_shallow"](given)
    assert cuda.copied == before + rest
    assert np.array_equal(
        got["prediction"], trt.answers["unet_shallow"](shallow | {FEATURES: expected[FEATURES]})["prediction"]
    )


def test_a_later_call_does_not_change_what_was_kept(bundle, trt, engines):
    first, second = (feeds_of(bundle, "unet", SIZES, seed) for seed in (0, 1))
    kept = keep(engines["unet"], first, [FEATURES])[FEATURES]
    keep(engines["unet"], second, [FEATURES])
    assert np.array_equal(np.asarray(kept), trt.answers["unet"](first)[FEATURES])


def test_memory_of_what_nobody_needs_is_used_again(bundle, cuda, engines):
    kept = keep(engines["unet"], feeds_of(bundle, "unet", SIZES), [FEATURES])[FEATURES]
    address = kept.buffer.address
    del kept
    gc.collect()
    for width, same in ((SIZES["width"], True), (SIZES["width"] + 2, False)):
        kept = keep(engines["unet"], feeds_of(bundle, "unet", SIZES | {"width": width}), [FEATURES])[FEATURES]
        assert (kept.buffer.address == address) == same
        del kept
        gc.collect()
    assert len(engines["unet"].gpu.spares.buffers) == 1


def test_a_kept_output_outlives_its_plan(bundle, trt, cuda, engines):
    feeds = feeds_of(bundle, "unet", SIZES)
    kept = keep(engines["unet"], feeds, [FEATURES])[FEATURES]
    engines["unet"].unload()
    assert np.array_equal(np.asarray(kept), trt.answers["unet"](feeds)[FEATURES])
    del kept
    gc.collect()
    cuda.assert_all_freed()
