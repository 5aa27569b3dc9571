"""The TensorRT engine on a strict stand-in of the documented contract; the numbers are ONNX Runtime's."""

import numpy as np
import pytest

import latentrt
from latentrt.engines import open_engine, open_engines
from latentrt.errors import EngineError, ShapeError
from tests.runtime.engines import standin
from tests.runtime.engines.standin_plans import SIZES, VERSION, build, build_all, feeds_of, profile_of


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("kind", ["tensorrt", "tensorrt-rtx"])
def test_pictures_are_those_of_the_cpu(bundle, answers, home, monkeypatch, kind, integrated):
    """Pixels equal ONNX Runtime's, at two sizes and with both kinds of memory, so copies and addresses are right."""
    cuda = standin.Cuda(integrated=integrated)
    jit = kind == "tensorrt-rtx"
    version = "1.7.1" if jit else VERSION
    trt = standin.TensorRT(cuda, bundle.manifest.components, answers, version=version, jit=jit)
    trt.install(monkeypatch, home)
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


def test_nothing_is_captured_if_the_user_says_so(bundle, trt, cuda, monkeypatch):
    monkeypatch.setenv("LATENTRT_CUDA_GRAPH", "0")
    build(bundle, "unet")
    engine = open_engines("tensorrt", bundle)["unet"]
    for seed in range(4):
        feeds = feeds_of(bundle, "unet", SIZES, seed)
        assert np.array_equal(engine(feeds)["prediction"], trt.answers["unet"](feeds)["prediction"])
    assert (trt.enqueued, cuda.launches) == (4, 0)


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
    """Only the same read-only array that is not a view; any other array may have changed in place."""
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
    with pytest.raises(EngineError, match="time_bias: no call to time"):
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


def test_kernels_compiled_for_rtx_are_kept(bundle, answers, cuda, home, monkeypatch):
    trt = standin.TensorRT(cuda, bundle.manifest.components, answers, version="1.7.1", jit=True)
    trt.install(monkeypatch, home)
    build(bundle, "time_bias", engine="tensorrt-rtx", version="1.7.1", gpu="")
    for _ in range(3):
        engine = open_engines("tensorrt-rtx", bundle)["time_bias"]
        engine(feeds_of(bundle, "time_bias", SIZES))
        engine.close()
    assert trt.compiled == 1
    caches = [path for path in (home / "cache/latentrt/plans").glob("*.plan") if path.read_bytes() == b"kernels"]
    assert len(caches) == 1 and caches[0].stat().st_mode & 0o777 == 0o600
    caches[0].write_bytes(b"other code")
    engine(feeds_of(bundle, "time_bias", SIZES))
    assert trt.compiled == 2
