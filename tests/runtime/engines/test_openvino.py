"""The OpenVINO engine on graphs of the built-in bundle, compared with ONNX Runtime."""

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import latentrt
from latentrt.bundle.catalog import MODELS
from latentrt.bundle.folder import Bundle, open_bundle
from latentrt.device.cpu import CPUINFO
from latentrt.engines import open_engine
from latentrt.engines import openvino as ov
from latentrt.errors import EngineError, ShapeError
from tests.runtime.fake import psnr

EMOJI = MODELS / "emoji"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache for the whole module, apart from the user's."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(scope="module")
def exact() -> Bundle:
    """The built-in bundle, computed in float32 even if the processor has a half type."""
    bundle = open_bundle(EMOJI, verify=False)
    components = {name: replace(one, precision="fp32") for name, one in bundle.manifest.components.items()}
    return replace(bundle, manifest=replace(bundle.manifest, components=components))


def timesteps(*values: float) -> dict[str, np.ndarray]:
    return {"timestep": np.array(values, np.float32)}


def test_pictures_are_those_of_onnx_runtime(emoji: latentrt.Pipeline, exact: Bundle) -> None:
    engines = ov.open_engines(exact, "cpu")
    pipeline = emoji.with_engines(engines)
    asked = {"steps": 4, "seed": 0, "width": 96, "height": 64, "batch": 2}
    got, expected = (pipe.generate("a red apple", **asked) for pipe in (pipeline, emoji))
    assert min(map(psnr, got.images, expected.images)) > 60
    for engine in engines.values():
        engine.close()


def test_an_axis_is_fixed_until_it_changes(exact: Bundle) -> None:
    engine = ov.engine_of(exact, "time_bias")
    reference = open_engine("onnxruntime", "time_bias", exact.manifest.components["time_bias"], EMOJI)
    for values, fixed in (((1.0, 999.0), {"n": 2}), ((3.0, 4.0), {"n": 2}), ((500.0,), {}), ((1.0, 2.0), {})):
        np.testing.assert_allclose(
            engine(timesteps(*values))["time_bias"], reference(timesteps(*values))["time_bias"], rtol=1e-4, atol=1e-5
        )
        assert engine.fixed == fixed
    engine.unload()
    assert engine(timesteps(7.0))["time_bias"].shape == (1, 1696)
    assert engine.fixed == {"n": 1}
    engine.close()
    assert engine.model is None


def test_results_outlive_the_next_call(exact: Bundle) -> None:
    engine = ov.engine_of(exact, "time_bias")
    first = engine(timesteps(1.0))["time_bias"]
    kept = first.copy()
    engine(timesteps(900.0))
    assert np.array_equal(first, kept)


def test_what_was_compiled_is_found_again_and_made_anew_when_cut_short(
    exact: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def loaded() -> bool:
        engine = ov.engine_of(exact, "cross_kv")
        engine({"context": np.ones((1, 32, 256), np.float32)})
        return bool(engine.request.get_compiled_model().get_property("LOADED_FROM_CACHE"))

    folder = ov.engine_of(exact, "cross_kv").cache
    assert not loaded() and loaded()
    assert folder.stat().st_mode & 0o077 == 0
    (blob,) = folder.rglob("*.blob")
    blob.chmod(0o600)
    os.truncate(blob, blob.stat().st_size // 2)
    assert not loaded() and loaded()


def test_float_weights_over_the_limit_are_not_kept_twice(exact: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ov, "LARGEST_CACHED_BYTES", 5_000_000)
    kept = {name for name in exact.manifest.components if ov.engine_of(exact, name).cache}
    assert kept == {"cross_kv", "time_bias", "unet_shallow", "vae_encoder", "vae_decoder"}


def test_a_cache_that_cannot_be_made_is_done_without(
    exact: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert ov.engine_of(exact, "time_bias")(timesteps(1.0))["time_bias"].shape == (1, 1696)
    assert "cannot be cached there" in caplog.text


@pytest.mark.parametrize(
    ("able", "precision", "hints"),
    [
        (["FP32", "INT8", "BF16"], "w16", {"unet": "bf16", "time_bias": "f32"}),
        (["FP32", "FP16"], "int8", {"unet": "f16", "time_bias": "f32"}),
        (["FP32"], "fp16", {"unet": "f32", "time_bias": "f32"}),
        (["BF16", "FP16"], "fp32", {"unet": "f32", "time_bias": "f32"}),
    ],
)
def test_half_precision_is_for_processors_and_graphs_that_have_it(able, precision, hints, exact, monkeypatch) -> None:
    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            return able

    monkeypatch.setattr(ov, "core", Core)
    for name, hint in hints.items():
        engine = ov.engine_of(exact, name)
        engine.component = replace(engine.component, precision=precision)
        assert engine.settings()["INFERENCE_PRECISION_HINT"] == hint
        rounds = "DYNAMIC_QUANTIZATION_GROUP_SIZE" not in engine.settings()  # inputs of products, to 8 bits
        assert rounds == (precision != "fp32" and name != "time_bias")


@pytest.mark.parametrize("hint", ["f32", "bf16"])
def test_the_unet_in_bfloat16(hint, exact, monkeypatch) -> None:
    """Processors without half instructions can compute in half too, slowly, so the loss can be tested there."""
    monkeypatch.setattr(ov, "half_type", lambda: hint)
    engine = ov.engine_of(exact, "unet")
    engine.component = replace(engine.component, precision="w16")
    random = np.random.default_rng(0)
    shapes = {"sample": (1, 4, 8, 8), "time_bias": (1, 1696), "cross_kv": (1, 32, 2560)}
    feeds = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    expected = open_engine("onnxruntime", "unet", exact.manifest.components["unet"], EMOJI)(feeds)["prediction"]
    error = np.sqrt(np.mean((engine(feeds)["prediction"] - expected) ** 2))
    found = 20 * math.log10(np.ptp(expected) / error)
    # Without half instructions OpenVINO needs AVX-512 to emulate them; otherwise it computes in float32.
    computed = "f32" if hint == "f32" or found > 100 and "avx512f" not in CPUINFO.read_text() else "bf16"
    assert found > 100 if computed == "f32" else 40 < found < 100


def test_feeds_that_do_not_fit(exact: Bundle) -> None:
    with pytest.raises(ShapeError, match="time_bias: got timestep float64"):
        ov.engine_of(exact, "time_bias")({"timestep": np.zeros(1)})


@pytest.mark.parametrize("content", [None, b"", b"no graph", bytes(1000)], ids=["gone", "empty", "text", "zeros"])
def test_a_graph_that_openvino_refuses(content: bytes | None, exact: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "time_bias.onnx"
    if content is not None:
        path.write_bytes(content)
    engine = open_engine("openvino", "time_bias", exact.manifest.components["time_bias"], tmp_path)
    with pytest.raises(EngineError, match="OpenVINO cannot load it: .*; check it with `latentrt verify`"):
        engine.load()


def test_a_run_that_fails_names_the_component_and_the_sizes(exact: Bundle) -> None:
    """A manifest that allows any number of tokens, with a graph that accepts 32 only."""
    ids, clip_skip = exact.manifest.components["text_encoder"].inputs
    loose = replace(
        exact.manifest.components["text_encoder"], inputs=(replace(ids, shape=("batch", "tokens")), clip_skip)
    )
    engine = open_engine("openvino", "text_encoder", loose, EMOJI)
    with pytest.raises(EngineError, match=r"text_encoder: OpenVINO failed with \{'batch': 2, 'tokens': 33\}: "):
        engine({"input_ids": np.zeros((2, 33), np.int64), "clip_skip": np.array([1])})
