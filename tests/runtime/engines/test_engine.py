"""The ONNX Runtime engine on the smallest graph of the built-in bundle: (n,) timesteps in, (n, 1696) biases out."""

import importlib
import importlib.metadata
import importlib.util
import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import latentrt
from latentrt.bundle.catalog import MODELS
from latentrt.bundle.manifest import Component
from latentrt.bundle.manifest_json import read
from latentrt.engines import ENGINES, WeightsFactory, engine_kind, open_engine
from latentrt.engines.onnx import engine as cpu
from latentrt.errors import EngineError, ShapeError
from latentrt.extensions import COMMANDS, PLAN_BUILDERS
from latentrt.tensors import Array

EMOJI = MODELS / "emoji"
COMPONENTS = read((EMOJI / "bundle.json").read_bytes()).components


@pytest.fixture(scope="module")
def time_bias() -> cpu.OnnxRuntimeEngine:
    return cpu.open_engine("time_bias", COMPONENTS["time_bias"], EMOJI)


def opened(
    path: Path, name: str = "time_bias", component: Component = COMPONENTS["time_bias"]
) -> cpu.OnnxRuntimeEngine:
    return cpu.OnnxRuntimeEngine(name, component, path)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_outputs_come_by_name(time_bias: cpu.OnnxRuntimeEngine, count: int) -> None:
    outputs = time_bias({"timestep": np.arange(count, dtype=np.float32)})
    assert outputs.keys() == {"time_bias"}
    assert outputs["time_bias"].shape == (count, 1696)
    assert outputs["time_bias"].dtype == np.float32
    assert np.isfinite(outputs["time_bias"]).all()


def test_outputs_come_in_the_order_of_the_manifest() -> None:
    """The graph may have another order of outputs, so they are selected by name."""
    component = COMPONENTS["vae_encoder"]
    image = np.linspace(-1, 1, 3 * 8 * 16, dtype=np.float32).reshape(1, 3, 8, 16)
    straight = open_engine("onnxruntime", "vae_encoder", component, EMOJI)({"image": image})
    turned = replace(component, outputs=component.outputs[::-1])
    backward = open_engine("onnxruntime", "vae_encoder", turned, EMOJI)({"image": image})
    assert list(straight) == ["mean", "log_variance"]
    assert list(backward) == ["log_variance", "mean"]
    assert all(np.array_equal(straight[name], backward[name]) for name in straight)


WRONG_FEEDS: dict[str, tuple[dict[str, Array], str]] = {
    "type": ({"timestep": np.zeros(1)}, "got timestep float64 (1,), expected timestep float32 (n)"),
    "rank": ({"timestep": np.zeros((), np.float32)}, "got timestep float32 (), expected timestep float32 (n)"),
    "empty": ({"timestep": np.zeros(0, np.float32)}, "got timestep float32 (0,), expected timestep float32 (n)"),
    "missing": ({}, "got tensors [], expected ['timestep']"),
    "extra": (
        {"timestep": np.zeros(1, np.float32), "noise": np.zeros(1)},
        "got tensors ['noise', 'timestep'], expected ['timestep']",
    ),
    "another": ({"sigma": np.zeros(1, np.float32)}, "got tensors ['sigma'], expected ['timestep']"),
}


@pytest.mark.parametrize(("feeds", "message"), WRONG_FEEDS.values(), ids=WRONG_FEEDS.keys())
def test_feeds_that_do_not_fit(time_bias: cpu.OnnxRuntimeEngine, feeds: dict[str, Array], message: str) -> None:
    with pytest.raises(ShapeError) as caught:
        time_bias(feeds)
    assert str(caught.value) == f"time_bias: {message}"


def test_a_side_that_does_not_fit() -> None:
    engine = open_engine("onnxruntime", "vae_decoder", COMPONENTS["vae_decoder"], EMOJI)
    with pytest.raises(ShapeError) as caught:
        engine({"latents": np.zeros((1, 3, 8, 8), np.float32)})
    assert str(caught.value) == (
        "vae_decoder: got latents float32 (1, 3, 8, 8), expected latents float32 (batch, 4, height, width) "
        "with batch = 1"
    )


def test_feeds_are_checked_before_the_graph_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "new_session", lambda path, variant, **options: pytest.fail("loaded"))
    with pytest.raises(ShapeError):
        opened(EMOJI / "time_bias.onnx")({})


def test_a_graph_is_loaded_once_and_on_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    new_session = cpu.new_session
    monkeypatch.setattr(
        cpu,
        "new_session",
        lambda path, variant, **options: [made.append(path), new_session(path, variant, **options)][1],
    )
    engine = opened(EMOJI / "time_bias.onnx")
    assert made == []
    feeds = {"timestep": np.array([500.0], np.float32)}
    before = engine(feeds)["time_bias"]
    engine.load()
    engine(feeds)
    assert made == [EMOJI / "time_bias.onnx"]

    engine.unload()
    engine.unload()
    assert engine.session is None
    assert np.array_equal(engine(feeds)["time_bias"], before)
    assert len(made) == 2

    engine.close()
    assert engine.session is None


def test_a_pipeline_closes_its_engines() -> None:
    with latentrt.load("emoji") as pipeline:
        engine = pipeline.engines["time_bias"]
        assert isinstance(engine, cpu.OnnxRuntimeEngine)
        engine.load()
    assert engine.session is None


@pytest.mark.parametrize(
    "content", [b"", b"no graph", b"\x08\x0a", bytes(1000)], ids=["empty", "text", "bare", "zeros"]
)
def test_a_graph_that_onnx_runtime_refuses(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "time_bias.onnx"
    path.write_bytes(content)
    with pytest.raises(EngineError, match="ONNX Runtime cannot load it: .*; check it with `latentrt verify`") as caught:
        opened(path).load()
    assert str(caught.value).startswith(f"{path}: ")


def test_a_truncated_graph(tmp_path: Path) -> None:
    path = tmp_path / "time_bias.onnx"
    path.write_bytes((EMOJI / "time_bias.onnx").read_bytes()[:-1000])
    with pytest.raises(EngineError, match="cannot load"):
        opened(path).load()


def test_a_graph_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="gone.onnx: ONNX Runtime cannot load it"):
        opened(tmp_path / "gone.onnx").load()


def test_a_run_that_fails_names_the_component_and_the_sizes() -> None:
    """A manifest that allows any number of tokens, with a graph that accepts 32 only."""
    ids, clip_skip = COMPONENTS["text_encoder"].inputs
    loose = replace(COMPONENTS["text_encoder"], inputs=(replace(ids, shape=("batch", "tokens")), clip_skip))
    engine = opened(EMOJI / "text_encoder.onnx", "text_encoder", loose)
    with pytest.raises(EngineError) as caught:
        engine({"input_ids": np.zeros((2, 33), np.int64), "clip_skip": np.array([1])})
    assert not isinstance(caught.value, ShapeError)
    assert str(caught.value).startswith("text_encoder: ONNX Runtime failed with {'batch': 2, 'tokens': 33}: ")


@pytest.mark.parametrize("name", ["gpu", "", "CPU"])
def test_an_unknown_engine(name: str) -> None:
    with pytest.raises(EngineError, match=f"engine: got {name!r}, expected one of auto, cpu"):
        latentrt.load("emoji", engine=name)
    with pytest.raises(EngineError, match=f"engine: got {name!r}, expected one of auto, cpu"):
        open_engine(name, "time_bias", COMPONENTS["time_bias"], EMOJI)


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_that_is_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = ENGINES[name].extra
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    assert not ENGINES[name].installed
    with pytest.raises(EngineError) as caught:
        latentrt.load("emoji", engine=name)
    message = str(caught.value)
    assert message.startswith(f"engine {name!r} needs {ENGINES[name].needs}: run `pip install 'latentrt[{extra}]'`")
    assert ("pip uninstall onnxruntime onnxruntime-gpu" in message) == (extra == "cuda")
    assert extra in (importlib.metadata.metadata("latentrt").get_all("Provides-Extra") or [])


def test_the_engine_comes_before_the_bundle(tmp_path: Path) -> None:
    """A missing package is an error at once, not after 2 GB were hashed."""
    with pytest.raises(EngineError):
        latentrt.load(tmp_path, engine="gpu")
    assert engine_kind("cpu").installed


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_s_module_has_the_declared_functions(name: str) -> None:
    kind = ENGINES[name]
    module = importlib.import_module(kind.module)
    for declared in ("open_engines", "open_engine", *(["open_with_weights"] if kind.takes_weights else [])):
        wanted = list(inspect.signature(getattr(WeightsFactory, declared)).parameters)[1:]
        assert list(inspect.signature(getattr(module, declared)).parameters) == wanted


def test_every_part_of_the_table_of_extensions_is_there() -> None:
    for module in (*PLAN_BUILDERS.values(), *COMMANDS.values()):
        assert importlib.util.find_spec(module.partition(".")[0]) is not None
    assert PLAN_BUILDERS.keys() <= ENGINES.keys()
