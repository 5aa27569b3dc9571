"""Plans that the TensorRT engine accepts and refuses, on the stand-in."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from latentrt.bundle.folder import sha256_of
from latentrt.bundle.manifest import Fidelity, FileRecord
from latentrt.engines import open_engines
from latentrt.engines.nvidia import engine as tensorrt
from latentrt.engines.nvidia import lowered
from latentrt.engines.nvidia import plans as plans_module
from latentrt.engines.nvidia.lowered import Lowered, digest_of, folder_in, write_record
from latentrt.engines.nvidia.plans import STRIPPED, VERSION_COMPATIBLE, PlanStore, plan_store
from latentrt.errors import EngineError
from tests.runtime.engines.standin_plans import SIZES, build, feeds_of

OTHERS = {
    "version": {"version": "10.4.0"},
    "gpu": {"gpu": "Another"},
    "architecture": {"sm": "sm86"},
    "engine": {"engine": "tensorrt-rtx"},
}


@pytest.fixture
def no_builder(monkeypatch):
    def refuse(name, bundle, component, shapes):
        raise EngineError("no builder here")

    monkeypatch.setattr(tensorrt, "build_plan", refuse)


@pytest.mark.usefixtures("no_builder")
@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS.keys())
def test_plans_for_something_else_are_not_loaded(bundle, trt, changes):
    build(bundle, "unet", **changes)
    with pytest.raises(EngineError) as caught:
        open_engines("tensorrt", bundle)["unet"](feeds_of(bundle, "unet", SIZES))
    assert trt.deserialized == 0
    pixels = bundle.manifest.latents.factor
    assert str(caught.value).startswith("unet: got no plan of tensorrt 10.3.0 on Stand-in (sm87) for sample (2, ")
    assert f"run `latentrt build {bundle.folder} --target tensorrt --size {6 * pixels}x{8 * pixels}`" in str(
        caught.value
    )
    assert str(caught.value).endswith("(no builder here)")


@pytest.mark.usefixtures("no_builder")
def test_plans_of_an_older_lowering_are_not_loaded(bundle, trt, monkeypatch):
    build(bundle, "unet")
    monkeypatch.setattr(lowered, "VERSION", lowered.VERSION + 1)
    with pytest.raises(EngineError, match="got no plan"):
        open_engines("tensorrt", bundle)["unet"](feeds_of(bundle, "unet", SIZES))
    assert trt.deserialized == 0


def lowered_graph(bundle, name, content):
    """A lowered graph as from a workstation; the stand-in uses its bytes as weights."""
    target = folder_in(plan_store(bundle.folder).writable(), name, digest_of(bundle, name, "decomposed"))
    target.mkdir(parents=True)
    (target / "graph.onnx").write_text(content)
    record = FileRecord(bytes=len(content), sha256=sha256_of(target / "graph.onnx"))
    write_record(target, Lowered(name, "fp16", "decomposed", Fidelity(0.0, None, "none"), {"graph.onnx": record}))
    return target / "graph.onnx"


def test_a_stripped_plan_gets_the_weights_of_its_graph(bundle, trt, cuda):
    build(bundle, "time_bias", flags=(STRIPPED,))
    lowered_graph(bundle, "time_bias", "weights of time_bias")
    engine = open_engines("tensorrt", bundle)["time_bias"]
    got = engine(feeds := feeds_of(bundle, "time_bias", SIZES))
    expected = trt.answers["time_bias"](feeds)
    assert all(np.array_equal(got[name], expected[name]) for name in expected)
    engine.close()
    cuda.assert_all_freed()


def test_a_plan_with_its_weights_goes_before_a_stripped_one(bundle, trt):
    build(bundle, "time_bias", flags=(STRIPPED,))
    build(bundle, "time_bias")
    engine = open_engines("tensorrt", bundle)["time_bias"]
    engine(feeds_of(bundle, "time_bias", SIZES))
    assert [STRIPPED in key.flags for key in engine.loaded] == [False]
    assert trt.deserialized == 1


@pytest.mark.usefixtures("trt")
def test_a_stripped_plan_without_its_graph_says_what_to_copy(bundle, cuda):
    build(bundle, "time_bias", flags=(STRIPPED,))
    with pytest.raises(EngineError, match="got a plan without weights, .*lowered; copy that folder here too"):
        open_engines("tensorrt", bundle)["time_bias"](feeds_of(bundle, "time_bias", SIZES))
    cuda.assert_all_freed()


@pytest.mark.usefixtures("trt")
def test_weights_that_do_not_suffice_are_an_error(bundle, cuda):
    build(bundle, "time_bias", flags=(STRIPPED,))
    graph = lowered_graph(bundle, "time_bias", "weights of something else")
    with pytest.raises(EngineError, match=f"cannot put the weights of {graph} into the plan: failed to refit all"):
        open_engines("tensorrt", bundle)["time_bias"](feeds_of(bundle, "time_bias", SIZES))
    cuda.assert_all_freed()


@pytest.mark.usefixtures("no_builder")
def test_plans_for_other_shapes_are_not_loaded(bundle, trt):
    build(bundle, "unet")
    with pytest.raises(EngineError, match=r"there are plans of tensorrt 10.3.0 on Stand-in; run .* --batch 3`"):
        open_engines("tensorrt", bundle)["unet"](feeds_of(bundle, "unet", SIZES | {"batch": 3}))
    assert trt.deserialized == 0


def test_a_plan_is_built_when_none_fits(bundle, trt, monkeypatch, caplog):
    asked = []

    def builder(name, its_bundle, component, shapes):
        asked.append((name, component, shapes))
        build(its_bundle, component)

    monkeypatch.setattr(tensorrt, "build_plan", builder)
    engine = open_engines("tensorrt", bundle)["unet"]
    feeds = feeds_of(bundle, "unet", SIZES)
    for _ in range(2):
        assert np.array_equal(engine(feeds)["prediction"], trt.answers["unet"](feeds)["prediction"])
    assert asked == [("tensorrt", "unet", {name: feed.shape for name, feed in feeds.items()})]
    assert "building one, which may take minutes" in caplog.text


def test_a_tampered_plan_is_never_loaded_but_built_anew(bundle, trt, monkeypatch):
    path = build(bundle, "unet")
    honest = path.read_bytes()
    monkeypatch.setattr(tensorrt, "build_plan", lambda name, bundle, component, shapes: build(bundle, component))
    path.write_bytes(honest.replace(b"unet", b"evil"))
    engine = open_engines("tensorrt", bundle)["unet"]
    engine(feeds_of(bundle, "unet", SIZES))
    assert trt.deserialized == 1
    assert path.read_bytes() == honest


@pytest.mark.sweep
def test_500_tampered_plans_are_never_deserialized(bundle, trt):
    """Bits flipped, pieces cut, moved, added, the record's key or digest changed, another plan's record."""
    rng = np.random.default_rng(0)
    path = build(bundle, "time_bias")
    other = build(bundle, "time_bias", flags=("level=5",))
    plan, record = path.read_bytes(), path.with_suffix(".json").read_bytes()
    other_plan, other_record = other.read_bytes(), other.with_suffix(".json").read_bytes()
    other.unlink(), other.with_suffix(".json").unlink()
    engine = open_engines("tensorrt", bundle)["time_bias"]

    def flipped(content):
        changed = bytearray(content)
        changed[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        return bytes(changed)

    changes = [
        lambda: (flipped(plan), record),
        lambda: (plan[: rng.integers(len(plan))], record),
        lambda: (plan + rng.bytes(rng.integers(1, 50)), record),
        lambda: (rng.bytes(len(plan)), record),
        lambda: (plan, flipped(record)),
        lambda: (plan, record[: rng.integers(len(record) - 2)]),
        lambda: (plan, other_record),
        lambda: (other_plan[::-1], record),
        lambda: (plan, json.dumps(json.loads(record) | {"hmac": rng.bytes(32).hex()}).encode()),
        lambda: (b"", record),
    ]
    for i in range(500):
        plan_now, record_now = changes[i % len(changes)]()
        path.write_bytes(plan_now)
        path.with_suffix(".json").write_bytes(record_now)
        engine.load()
    assert trt.deserialized == 0
    assert not engine.loaded
    path.write_bytes(plan)
    path.with_suffix(".json").write_bytes(record)
    engine.load()
    assert trt.deserialized == 1
    engine.close()


def test_the_lean_runtime_takes_version_compatible_plans_only(bundle, trt, home, monkeypatch):
    module = sys.modules["tensorrt"]
    module.__name__ = "tensorrt_lean"
    build(bundle, "time_bias")
    engine = open_engines("tensorrt", bundle)["time_bias"]
    engine.load()
    assert not engine.loaded
    build(bundle, "time_bias", flags=(VERSION_COMPATIBLE,))
    engine.load()
    assert engine.gpu.runtime.engine_host_code_allowed
    engine.close()


def test_where_plans_are_kept(bundle, home, monkeypatch):
    cache = home / "cache/latentrt/plans"
    assert plan_store(bundle.folder).folders == (cache,)
    assert plan_store(home / "sd15").folders == (home / "sd15/targets", cache)
    assert isinstance(plan_store(Path("x")), PlanStore)
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert plans_module.plan_store(bundle.folder).folders == (Path.home() / ".cache/latentrt/plans",)
