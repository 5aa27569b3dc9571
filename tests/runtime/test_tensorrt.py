"""The TensorRT engine on a strict stand-in of the documented contract; the numbers are ONNX Runtime's."""

import json
import logging
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import latentrt
from latentrt.bundle import sha256_of
from latentrt.engines import execution, lowered, open_engine, open_engines, tensorrt
from latentrt.engines import plans as plans_module
from latentrt.engines.lowered import Lowered, digest_of, flag_of, folder_in, write_record
from latentrt.engines.plans import STRIPPED, VERSION_COMPATIBLE, PlanKey, PlanStore, Shapes, graph_digest, plan_store
from latentrt.errors import EngineError, ShapeError
from latentrt.manifest import Fidelity, FileRecord
from latentrt.tensors import shape_of
from tests.runtime import standin

VERSION = "10.3.0"
LARGEST = {"batch": 2, "tokens": 77, "n": 1000, "height": 16, "width": 16}


@pytest.fixture
def folder(bundle, tmp_path, monkeypatch):
    """A folder of plans that no other test sees, and the user's secret beside it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="session")
def answers(bundle):
    """Each component of the built-in model, computed by ONNX Runtime."""
    return open_engines("onnxruntime", bundle)


@pytest.fixture
def cuda():
    return standin.Cuda()


@pytest.fixture
def trt(bundle, answers, cuda, folder, monkeypatch):
    trt = standin.TensorRT(cuda, bundle.manifest.components, answers, version=VERSION)
    trt.install(monkeypatch, folder)
    return trt


def profile_of(component, smallest, largest):
    return tuple(
        Shapes(spec.name, shape_of(spec, smallest), shape_of(spec, largest), shape_of(spec, largest))
        for spec in component.inputs
    )


def lowered_flag(bundle, name):
    return flag_of(digest_of(bundle, name, "decomposed"))


def key_of(bundle, name, profiles=None, flags=("level=3",), **changes):
    component = bundle.manifest.components[name]
    ones = dict.fromkeys(LARGEST, 1)
    key = PlanKey(
        graph_digest(bundle.manifest, component),
        profiles or (profile_of(component, ones, LARGEST),),
        (lowered_flag(bundle, name), *flags),
        "tensorrt",
        VERSION,
        "Stand-in",
        "sm87",
    )
    return replace(key, **changes)


def build(bundle, name, profiles=None, **changes):
    """Builds what the stand-in takes for a plan; returns where."""
    key = key_of(bundle, name, profiles, **changes)
    profiles = [[asdict(own) for own in one] for one in key.profiles]
    plan = json.dumps({"component": name, "profiles": profiles, "stripped": STRIPPED in key.flags})
    return plan_store(bundle.folder).build(key, lambda path: [path.write_text(plan), None][1])


def build_all(bundle, **changes):
    return [build(bundle, name, **changes) for name in bundle.manifest.components]


def feeds_of(bundle, name, sizes, seed=0):
    rng = np.random.default_rng(seed)
    return {
        spec.name: np.ones(shape_of(spec, sizes), np.int64)
        if spec.dtype == "int64"
        else rng.standard_normal(shape_of(spec, sizes)).astype(spec.dtype)
        for spec in bundle.manifest.components[name].inputs
    }


SIZES = {"batch": 2, "tokens": 32, "n": 3, "height": 8, "width": 6}


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("kind", ["tensorrt", "tensorrt-rtx"])
def test_pictures_are_those_of_the_cpu(bundle, answers, folder, monkeypatch, kind, integrated):
    """Every copy, shape and address is right: the pixels are ONNX Runtime's, at two sizes, on both kinds of memory."""
    cuda = standin.Cuda(integrated=integrated)
    jit = kind == "tensorrt-rtx"
    version = "1.7.1" if jit else VERSION
    trt = standin.TensorRT(cuda, bundle.manifest.components, answers, version=version, jit=jit)
    trt.install(monkeypatch, folder)
    build_all(bundle, engine=kind, version=version)
    options = {"steps": 3, "seed": 7}
    with latentrt.load("emoji", engine=kind, verify=False) as pipeline, latentrt.load("emoji", verify=False) as cpu:
        for size in ({}, {"width": 64, "height": 48}):
            got, expected = (each.generate("a red apple", **options, **size).images[0] for each in (pipeline, cpu))
            assert np.array_equal(np.asarray(got), np.asarray(expected))
        assert trt.enqueued
    cuda.assert_all_freed()


@pytest.mark.usefixtures("trt")
def test_one_arena_as_large_as_the_largest(bundle, trt, cuda):
    build_all(bundle)
    trt.activations = {"unet": 5000, "vae_decoder": 900_000, "text_encoder": 100_000}
    engines = open_engines("tensorrt", bundle)
    for name in ("unet", "text_encoder", "vae_decoder", "unet"):
        expected = trt.answers[name](feeds := feeds_of(bundle, name, SIZES))
        got = engines[name](feeds)
        assert all(np.array_equal(got[key], expected[key]) for key in expected)
    gpu = engines["unet"].gpu
    assert all(engine.gpu is gpu for engine in engines.values())
    assert gpu.arena.size == 900_000
    for engine in engines.values():
        engine.close()
    assert gpu.arena is None
    cuda.assert_all_freed()


def test_a_graph_is_captured_at_the_second_call_and_again_for_other_shapes(bundle, trt, cuda):
    build(bundle, "unet")
    engine = open_engines("tensorrt", bundle)["unet"]
    counts = []
    small, large = SIZES | {"width": 4}, SIZES | {"width": 16}
    for seed, sizes in enumerate([SIZES, SIZES, SIZES, SIZES, small, small, small, large, large]):
        feeds = feeds_of(bundle, "unet", sizes, seed)
        assert np.array_equal(engine(feeds)["prediction"], trt.answers["unet"](feeds)["prediction"])
        counts.append((trt.enqueued, cuda.launches))
    assert counts == [(1, 0), (2, 1), (2, 2), (2, 3), (3, 3), (4, 4), (4, 5), (5, 5), (6, 6)]
    engine.close()
    cuda.assert_all_freed()


def test_another_component_that_moves_the_arena_ends_the_graph(bundle, trt, cuda):
    build_all(bundle)
    trt.activations = {"unet": 1000, "vae_decoder": 50_000}
    engines = open_engines("tensorrt", bundle)
    feeds = feeds_of(bundle, "unet", SIZES)
    for _ in range(3):
        engines["unet"](feeds)
    assert (trt.enqueued, cuda.launches) == (2, 2)
    engines["vae_decoder"](feeds_of(bundle, "vae_decoder", SIZES))
    for _ in range(2):
        assert np.array_equal(engines["unet"](feeds)["prediction"], trt.answers["unet"](feeds)["prediction"])
    assert (trt.enqueued, cuda.launches) == (5, 3)


def test_what_cannot_be_captured_runs_as_it_is(bundle, trt, cuda, caplog):
    build(bundle, "unet")
    trt.uncapturable = {"unet"}
    engine = open_engines("tensorrt", bundle)["unet"]
    for seed in range(4):
        feeds = feeds_of(bundle, "unet", SIZES, seed)
        assert np.array_equal(engine(feeds)["prediction"], trt.answers["unet"](feeds)["prediction"])
    assert cuda.launches == 0
    assert [record.message for record in caplog.records if "without a CUDA graph" in record.message] == [
        "unet: runs without a CUDA graph: unet: tensorrt failed with "
        f"{engine.last.shapes}: operation not permitted when stream is capturing"
    ]


def test_inputs_that_shapes_depend_on_stay_on_the_host_and_are_not_captured(bundle, trt, cuda):
    build(bundle, "text_encoder")
    trt.on_host = {"clip_skip"}
    engine = open_engines("tensorrt", bundle)["text_encoder"]
    for clip_skip in (1, 2, 1):
        feeds = feeds_of(bundle, "text_encoder", SIZES) | {"clip_skip": np.array([clip_skip])}
        expected = trt.answers["text_encoder"](feeds)
        assert np.array_equal(engine(feeds)["context"], expected["context"])
    assert cuda.launches == 0


def test_only_what_cannot_have_changed_is_not_copied(bundle, trt, cuda):
    """The same array, read-only and no view; anything else may have changed in place."""
    build(bundle, "unet")
    engine = open_engines("tensorrt", bundle)["unet"]
    feeds = feeds_of(bundle, "unet", SIZES)
    rest = sum(feed.nbytes for name, feed in feeds.items() if name != "cross_kv")
    kept = feeds["cross_kv"]

    def copied(array):
        before = cuda.copied
        got = engine(feeds | {"cross_kv": array})["prediction"]
        assert np.array_equal(got, trt.answers["unet"](feeds | {"cross_kv": array})["prediction"])
        return cuda.copied - before - rest

    assert copied(kept) == kept.nbytes
    kept *= 2
    assert copied(kept) == kept.nbytes  # the same object, other numbers
    view = kept[:]
    view.flags.writeable = False
    assert copied(view) == copied(view) == kept.nbytes  # its base may be written to
    kept.flags.writeable = False
    assert copied(kept) == kept.nbytes
    assert copied(kept) == copied(kept) == 0
    assert copied(other := kept.copy()) == other.nbytes
    assert copied(kept) == kept.nbytes


def test_a_run_copies_keys_and_values_once(bundle, trt, cuda):
    build_all(bundle)
    with latentrt.load("emoji", engine="tensorrt", verify=False) as pipeline:
        run = pipeline.steps(latentrt.Request("a red apple", steps=5, seed=1))
        copies = []
        for _ in run:
            copies.append(cuda.copied)
        unet = pipeline.engines["unet"].last
        kv = unet.tensors["cross_kv"].last.nbytes
    every_step = {later - earlier for earlier, later in zip(copies[:-1], copies[1:], strict=True)}
    assert len(every_step) == 1
    assert every_step.pop() < kv < copies[0]


def test_profiles_of_one_plan_share_the_weights(bundle, trt):
    component = bundle.manifest.components["unet"]
    static = [profile_of(component, sizes, sizes) for sizes in (SIZES | {"batch": 1}, SIZES)]
    build(bundle, "unet", tuple(static))
    engine = open_engines("tensorrt", bundle)["unet"]
    for batch in (1, 2, 1, 2):
        feeds = feeds_of(bundle, "unet", SIZES | {"batch": batch})
        assert np.array_equal(engine(feeds)["prediction"], trt.answers["unet"](feeds)["prediction"])
    assert trt.deserialized == 1
    assert trt.enqueued == 4  # each warms up once and is captured once


def test_a_narrow_plan_is_preferred(bundle, trt):
    component = bundle.manifest.components["unet"]
    build(bundle, "unet")
    build(bundle, "unet", (profile_of(component, SIZES, SIZES),))
    engine = open_engines("tensorrt", bundle)["unet"]
    engine(feeds_of(bundle, "unet", SIZES))
    [key] = engine.loaded
    assert key.profiles[0][0].smallest == key.profiles[0][0].largest
    engine(feeds_of(bundle, "unet", SIZES | {"width": 5}))
    assert len(engine.loaded) == 2


@pytest.mark.usefixtures("trt")
def test_time_on_the_device(bundle):
    build(bundle, "time_bias")
    engine = open_engine("tensorrt", "time_bias", bundle.manifest.components["time_bias"], bundle.folder)
    with pytest.raises(EngineError, match="time_bias: nothing ran yet"):
        engine.device_ms  # noqa: B018
    engine(feeds_of(bundle, "time_bias", SIZES))
    assert engine.device_ms == 1  # the stand-in's clock ticks at events
    engine.close()


def test_a_plan_is_loaded_once_and_again_after_unload(bundle, trt, cuda):
    build(bundle, "time_bias")
    engine = open_engines("tensorrt", bundle)["time_bias"]
    assert trt.deserialized == 0
    engine.load()
    engine.load()
    engine(feeds_of(bundle, "time_bias", SIZES))
    assert trt.deserialized == 1
    engine.unload()
    engine.unload()
    cuda.assert_all_freed()
    engine(feeds_of(bundle, "time_bias", SIZES))
    assert trt.deserialized == 2
    engine.close()
    cuda.assert_all_freed()


def test_feeds_are_checked_first(bundle, trt):
    with pytest.raises(ShapeError, match=r"time_bias: got tensors \[\], expected \['timestep'\]"):
        open_engines("tensorrt", bundle)["time_bias"]({})
    assert trt.deserialized == 0


def test_kernels_compiled_for_rtx_are_kept(bundle, answers, cuda, folder, monkeypatch):
    trt = standin.TensorRT(cuda, bundle.manifest.components, answers, version="1.7.1", jit=True)
    trt.install(monkeypatch, folder)
    build(bundle, "time_bias", engine="tensorrt-rtx", version="1.7.1", gpu="")
    for _ in range(3):
        engine = open_engines("tensorrt-rtx", bundle)["time_bias"]
        engine(feeds_of(bundle, "time_bias", SIZES))
        engine.close()
    assert trt.compiled == 1
    caches = [path for path in (folder / "cache/latentrt/plans").glob("*.plan") if path.read_bytes() == b"kernels"]
    assert len(caches) == 1 and caches[0].stat().st_mode & 0o777 == 0o600
    caches[0].write_bytes(b"other code")
    engine(feeds_of(bundle, "time_bias", SIZES))
    assert trt.compiled == 2


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
    pixels = bundle.manifest.latents.pixels
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
    """What a workstation would have left of a component; the stand-in takes its content for the weights."""
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
    with pytest.raises(EngineError, match=r"there are those of tensorrt 10.3.0 on Stand-in; run .* --batch 3`"):
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
    with pytest.raises(EngineError, match=r"too little GPU memory; close other programs.*wanted 1073\.7 MB"):
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
def test_a_wrong_version(bundle, trt, folder, monkeypatch, version):
    trt.__version__ = version
    trt.install(monkeypatch, folder)
    with pytest.raises(EngineError) as caught:
        open_engines("tensorrt", bundle)["unet"].load()
    assert str(caught.value).startswith(
        f"tensorrt: got version {version} of tensorrt, expected 10.3 or later, before 12.0; run `pip install"
    )


def test_bindings_whose_library_is_missing(bundle, trt, folder, monkeypatch):
    (folder / "tensorrt").mkdir()
    (folder / "tensorrt/__init__.py").write_text('raise OSError("libnvinfer.so.10: cannot open shared object file")')
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.syspath_prepend(str(folder))
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
        engine.last.forget()
        with pytest.raises(EngineError, match=r"unet: tensorrt failed with .*: no luck"):
            engine(feeds | {"sample": feeds["sample"] * 3})
    finally:
        standin.Context.execute_async_v3 = original
    assert np.array_equal(engine(feeds)["prediction"], trt.answers["unet"](feeds)["prediction"])


def test_the_lean_runtime_takes_version_compatible_plans_only(bundle, trt, folder, monkeypatch):
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


def test_messages_of_the_runtime_go_to_logging(bundle, trt, caplog):
    with caplog.at_level(logging.DEBUG, "latentrt.engines.bindings"):
        gpu = execution.Gpu(execution.Flavour("tensorrt", ("tensorrt",), (10, 3), (12, 0), ""))
        gpu.acquire()
        gpu.lines.logger.log(standin.Severity.INFO, "loaded engine size: 5 MiB")
        gpu.release()
    assert "INFO: loaded engine size: 5 MiB" in caplog.text
    assert gpu.lines.taken() == "it gave no reason"


def test_where_plans_are_kept(bundle, folder, monkeypatch):
    cache = folder / "cache/latentrt/plans"
    assert plan_store(bundle.folder).folders == (cache,)
    assert plan_store(folder / "sd15").folders == (folder / "sd15/targets", cache)
    assert isinstance(plan_store(Path("x")), PlanStore)
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert plans_module.plan_store(bundle.folder).folders == (Path.home() / ".cache/latentrt/plans",)
