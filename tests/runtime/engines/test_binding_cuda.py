"""ONNX Runtime's CUDA provider on a real NVIDIA GPU: captured calls, their replays, and outputs that stay there."""

import numpy as np
import pytest

from latentrt.bundle.catalog import MODELS
from latentrt.bundle.manifest_json import read
from latentrt.engines import ENGINES
from latentrt.engines.keeping import keep
from latentrt.engines.onnx import engine as onnx_engine
from latentrt.engines.onnx.binding import OrtTensor
from latentrt.engines.onnx.engine import BoundEngine, OnnxRuntimeEngine
from latentrt.tensors import read_only
from tests.runtime.engines.gpu import without_gpu

EMOJI = MODELS / "emoji"
COMPONENTS = read((EMOJI / "bundle.json").read_bytes()).components
# Of the largest value: the GPU computes products of float32 in TF32, with 10 bits.
TOLERANCE = 2e-2


WHY = without_gpu() if ENGINES["cuda"].installed else f"engine 'cuda' needs {ENGINES['cuda'].needs}"
pytestmark = pytest.mark.skipif(bool(WHY), reason=WHY)


def opened(name, engine="cuda", **options):
    component = COMPONENTS[name]
    kind = OnnxRuntimeEngine if engine == "onnxruntime" else BoundEngine
    return kind(name, component, EMOJI / component.file, engine, **options)


def unet_feeds(batch, seed=0, tokens=32):
    random = np.random.default_rng(seed)
    return {
        "sample": random.standard_normal((batch, 4, 16, 16), np.float32),
        "time_bias": random.standard_normal((batch, 1696), np.float32),
        "cross_kv": read_only(random.standard_normal((batch, tokens, 2560), np.float32)),
    }


def assert_close(got, expected):
    np.testing.assert_allclose(np.asarray(got), expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def test_replays_compute_with_the_feeds_of_their_call(caplog):
    """Latents change at every step, prompts by the run, shapes with guidance: two by turns, three graphs."""
    engine, reference = opened("unet"), opened("unet", "onnxruntime")
    constant = {batch: unet_feeds(batch)["cross_kv"] for batch in (1, 2, 3)}
    for turn in range(5):
        for batch in (1, 2, 3):
            feeds = {**unet_feeds(batch, seed=turn), "cross_kv": constant[batch]}
            assert_close(engine(feeds)["prediction"], reference(feeds)["prediction"])
            other = unet_feeds(batch, seed=100 + turn)
            assert_close(engine(other)["prediction"], reference(other)["prediction"])
    assert sorted(engine.bound.captured) == [1, 2, 3]
    assert caplog.records == []
    engine.close()


def test_calls_without_graphs():
    engine, reference = opened("unet", graphs=False), opened("unet", "onnxruntime")
    for turn in range(3):
        feeds = unet_feeds(2, seed=turn)
        assert_close(engine(feeds)["prediction"], reference(feeds)["prediction"])
    assert engine.bound.captured == {}
    engine.close()


@pytest.mark.parametrize("stepwise", [(), ("vae_encoder", "vae_decoder")])
def test_outputs_that_stay_on_the_gpu(monkeypatch, stepwise):
    monkeypatch.setattr(onnx_engine, "STEPWISE", stepwise)
    first, second = opened("vae_encoder"), opened("vae_decoder")
    images = [np.random.default_rng(seed).uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32) for seed in range(4)]
    found = [keep(first, {"image": image}, ["mean"])["mean"] for image in images]
    for got, image in zip(found, images, strict=True):
        assert isinstance(got, OrtTensor)
        assert got.value.device_name() == "cuda"
        assert_close(got, opened("vae_encoder", "onnxruntime")({"image": image})["mean"])
        decoded = keep(second, {"latents": got}, [])["image"]
        assert_close(decoded, opened("vae_decoder", "onnxruntime")({"latents": np.asarray(got)})["image"])
