"""Sessions with their tensors on a device: ONNX Runtime's CPU as the device, with the same code as a GPU.

The CPU's execution provider ignores the number of a CUDA graph, so a captured call runs anew at its fixed addresses.
"""

import functools
import gc
import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

import latentrt
from latentrt.bundle.catalog import MODELS
from latentrt.bundle.manifest_json import read
from latentrt.engines import cuda_graphs, open_engine
from latentrt.engines.keeping import keep
from latentrt.engines.onnx import binding
from latentrt.engines.onnx import engine as onnx_engine
from latentrt.engines.onnx.binding import (
    NO_GRAPH,
    BoundSession,
    CaptureError,
    Constants,
    GraphChoice,
    OrtTensor,
    Slot,
    check_alike,
)
from latentrt.engines.onnx.engine import BoundEngine, OnnxRuntimeEngine, device_thread
from latentrt.engines.onnx.session import GRAPH_PROVIDERS, PROVIDERS
from latentrt.errors import EngineError, ShapeError
from latentrt.tensors import read_only

EMOJI = MODELS / "emoji"
COMPONENTS = read((EMOJI / "bundle.json").read_bytes()).components


@pytest.fixture
def captures(monkeypatch):
    """Lets the CPU's engine be captured, as the CUDA provider's is."""
    monkeypatch.setitem(GRAPH_PROVIDERS, "onnxruntime", PROVIDERS["onnxruntime"])


def bound(name, *, component=None, graphs=True):
    component = component or COMPONENTS[name]
    return BoundEngine(name, component, EMOJI / component.file, "onnxruntime", graphs=graphs)


@functools.cache
def plain(name):
    """The engine without bound tensors, which is what all calls are compared with."""
    return open_engine("onnxruntime", name, COMPONENTS[name], EMOJI)


def unet_feeds(batch, height=4, width=6, tokens=5, seed=0):
    """Feeds of the UNet; the prompt's are constant, as in a run."""
    random = np.random.default_rng(seed)
    normal = lambda *shape: random.standard_normal(shape, np.float32)  # noqa: E731
    return {
        "sample": normal(batch, 4, height, width),
        "time_bias": normal(batch, 1696),
        "cross_kv": read_only(normal(batch, tokens, 2560)),
    }


def same(found, expected):
    return found.keys() == expected.keys() and all(
        isinstance(found[name], np.ndarray)
        and found[name].dtype == expected[name].dtype
        and np.array_equal(found[name], expected[name])
        for name in expected
    )


def captured(engine):
    """The calls of the engine that have a CUDA graph, by number."""
    return engine.bound.captured


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_calls_have_the_bits_of_plain_ones(captures, batch, graphs):
    engine, reference = bound("unet", graphs=graphs), plain("unet")
    feeds = unet_feeds(batch)
    kept = []
    for step in range(4):
        feeds["sample"] = np.random.default_rng(step).standard_normal(feeds["sample"].shape, np.float32)
        expected = reference(feeds)
        found = engine(feeds)
        assert same(found, expected)
        kept.append((found, expected))
    assert len(captured(engine)) == int(graphs)
    assert all(same(found, expected) for found, expected in kept)  # no later call wrote to them


def test_an_array_that_is_written_to_is_copied_again(captures):
    engine, reference = bound("unet"), plain("unet")
    feeds = {name: feed.copy() for name, feed in unet_feeds(1).items()}
    for step in range(4):
        for feed in feeds.values():
            feed *= 1 + step / 8
        assert same(engine(feeds), reference(feeds))
    assert len(captured(engine)) == 1


def test_a_view_that_cannot_be_written_to_is_copied_again(captures):
    """Its base can be written to."""
    engine, reference = bound("unet"), plain("unet")
    base = unet_feeds(1)["cross_kv"].copy()
    view = base[:]
    view.flags.writeable = False
    for step in range(4):
        base *= 1 + step / 8
        assert same(engine({**unet_feeds(1), "cross_kv": view}), reference({**unet_feeds(1), "cross_kv": view}))


def test_feeds_that_are_not_contiguous(captures):
    engine, reference = bound("unet"), plain("unet")
    feeds = unet_feeds(1)
    turned = read_only(np.asfortranarray(feeds["cross_kv"]))
    assert not turned.flags.c_contiguous
    for _ in range(3):
        assert same(engine({**feeds, "cross_kv": turned}), reference(feeds))


def test_shapes_change_between_calls(captures):
    """Guidance that stops, tiles at the edges, another picture: each shape has its own addresses."""
    engine, reference = bound("unet"), plain("unet")
    cases = [unet_feeds(2), unet_feeds(1), unet_feeds(2, 6, 4), unet_feeds(2, tokens=7), unet_feeds(3)]
    for _ in range(3):
        for feeds in cases:
            assert same(engine(feeds), reference(feeds))
    assert sorted(captured(engine)) == [1, 2, 3, 4, 5]


def test_prompts_change_between_calls(captures):
    """A new run, or one call per prompt of a step, by turns."""
    engine, reference = bound("unet"), plain("unet")
    one, other = unet_feeds(1, seed=1), unet_feeds(1, seed=2)
    for _ in range(4):
        assert same(engine(one), reference(one))
        assert same(engine(other), reference(other))


def test_a_constant_is_copied_once(captures, monkeypatch):
    """And a second time into the buffer of a captured call, on the device."""
    uploads, moves = [], []
    place, copy = Constants.value, binding.copy_on_device

    def value(constants, array):
        known = id(array) in constants.values
        found = place(constants, array)
        uploads.extend([] if known else [array.shape])
        return found

    monkeypatch.setattr(Constants, "value", value)
    monkeypatch.setattr(binding, "copy_on_device", lambda source, target: moves.append(copy(source, target)))
    engine, feeds = bound("unet"), unet_feeds(2)
    for _ in range(6):
        engine(feeds)
    assert (uploads, len(moves)) == ([(2, 5, 2560)], 1)


def test_what_a_prompt_decides_is_copied_once_a_run(captures, monkeypatch):
    uploads, place = [], Constants.value

    def value(constants, array):
        uploads.extend([] if id(array) in constants.values else [array.shape])
        return place(constants, array)

    monkeypatch.setattr(Constants, "value", value)
    settings = {"steps": 4, "width": 64, "height": 48}
    with latentrt.load("emoji", engine="cpu", verify=False) as reference:
        pipeline = reference.with_engines({"unet": bound("unet")})
        for run in range(3):
            pipeline.generate("a red apple", seed=run, **settings)
            assert uploads == [(2, 32, 2560)] * (run + 1)
        pipeline.close()


def test_a_constants_copy_lives_as_long_as_its_array():
    constants = Constants("cpu")
    array = read_only(np.arange(6, dtype=np.float32).reshape(2, 3))
    value = constants.value(array)
    assert constants.value(array) is value
    assert np.array_equal(value.numpy(), array)
    assert value.data_ptr() != array.ctypes.data
    del array
    gc.collect()
    assert constants.values == {}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("graphs", [False, True])
def test_an_output_stays_on_the_device_and_is_an_input_of_another_graph(captures, monkeypatch, batch, graphs):
    monkeypatch.setattr(onnx_engine, "STEPWISE", ("vae_encoder", "vae_decoder"))
    first, second = bound("vae_encoder", graphs=graphs), bound("vae_decoder", graphs=graphs)
    images = [np.random.default_rng(seed).uniform(-1, 1, (batch, 3, 16, 24)).astype(np.float32) for seed in range(4)]
    expected = [plain("vae_encoder")({"image": image}) for image in images]
    found = [keep(first, {"image": image}, ["mean"]) for image in images]
    for got, want in zip(found, expected, strict=True):  # later calls wrote to none of them
        assert isinstance(got["mean"], OrtTensor)
        assert (got["mean"].shape, got["mean"].ndim, got["mean"].dtype) == ((batch, 4, 2, 3), 4, np.float32)
        assert np.array_equal(np.asarray(got["mean"]), want["mean"])
        assert np.array_equal(got["log_variance"], want["log_variance"])
        decoded = keep(second, {"latents": got["mean"]}, [])
        assert same(decoded, plain("vae_decoder")({"latents": want["mean"]}))
    first.close()  # what was kept needs no session
    assert np.array_equal(np.asarray(found[0]["mean"], np.float16), expected[0]["mean"].astype(np.float16))


def test_what_was_kept_goes_in_and_out_of_calls_by_turns(captures, monkeypatch):
    """As a cached feature does: one graph writes it now and then, another one reads it at every call."""
    monkeypatch.setattr(onnx_engine, "STEPWISE", ("vae_encoder", "vae_decoder"))
    first, second = bound("vae_encoder"), bound("vae_decoder")
    image = np.zeros((1, 3, 16, 16), np.float32)
    for turn in range(3):
        image += 0.25
        feature = keep(first, {"image": image}, ["mean"])["mean"]
        mean = plain("vae_encoder")({"image": image})["mean"]
        for _ in range(3):
            assert same(keep(second, {"latents": feature}, []), plain("vae_decoder")({"latents": mean})), turn


def test_an_engine_for_a_cpu_keeps_arrays_without_a_copy():
    class Named(OnnxRuntimeEngine):
        def __call__(self, feeds):
            self.last = super().__call__(feeds)
            return self.last

    engine = Named("time_bias", COMPONENTS["time_bias"], EMOJI / "time_bias.onnx")
    kept = keep(engine, {"timestep": np.array([500.0], np.float32)}, ["time_bias"])["time_bias"]
    assert kept is engine.last["time_bias"]


@pytest.mark.parametrize("kept", [[], ["mean"], ["log_variance", "mean"]])
def test_outputs_come_in_the_order_of_the_manifest(captures, monkeypatch, kept):
    monkeypatch.setattr(onnx_engine, "STEPWISE", ("vae_encoder",))
    component, feeds = COMPONENTS["vae_encoder"], {"image": np.full((1, 3, 16, 16), 0.5, np.float32)}
    engine = bound("vae_encoder", component=replace(component, outputs=component.outputs[::-1]))
    expected = plain("vae_encoder")(feeds)
    for _ in range(3):
        found = keep(engine, feeds, kept)
        assert list(found) == ["log_variance", "mean"]
        assert all(np.array_equal(np.asarray(found[name]), expected[name]) for name in expected)


def test_a_tensor_on_a_device_is_an_array_for_an_engine_without_one():
    mean = keep(bound("vae_encoder"), {"image": np.zeros((1, 3, 16, 16), np.float32)}, ["mean"])["mean"]
    assert same(
        keep(plain("vae_decoder"), {"latents": mean}, ["image"]), plain("vae_decoder")({"latents": np.asarray(mean)})
    )


@pytest.mark.parametrize("opened", [bound, plain])
def test_an_output_to_keep_that_there_is_not(opened):
    with pytest.raises(EngineError, match="got outputs feature to keep, expected some of time_bias"):
        keep(opened("time_bias"), {"timestep": np.zeros(1, np.float32)}, ["feature"])


def test_feeds_that_do_not_fit():
    """Also tensors on the device are checked."""
    engine = bound("vae_decoder")
    mean = keep(bound("vae_encoder"), {"image": np.zeros((1, 3, 16, 16), np.float32)}, ["mean"])["mean"]
    with pytest.raises(ShapeError, match=r"vae_decoder: got tensors \['mean'\], expected \['latents'\]"):
        keep(engine, {"mean": mean}, [])
    turned = bound("vae_encoder")
    with pytest.raises(ShapeError, match=r"vae_encoder: got image float32 \(1, 4, 2, 2\), expected image"):
        keep(turned, {"image": mean}, [])
    assert engine.session is None


def test_a_call_that_fails(tmp_path, caplog):
    """Of a plain call, the error is ONNX Runtime's, and the session lives on."""
    engine = bound("vae_encoder", component=replace(COMPONENTS["vae_encoder"], outputs=COMPONENTS["unet"].outputs))
    with pytest.raises(EngineError, match=r"vae_encoder: ONNX Runtime failed with \{.*'height': 2.*prediction"):
        engine({"image": np.zeros((1, 3, 16, 16), np.float32)})
    assert caplog.records == []


def test_a_graph_that_cannot_be_loaded(tmp_path):
    (tmp_path / "time_bias.onnx").write_bytes(b"no graph")
    engine = BoundEngine("time_bias", COMPONENTS["time_bias"], tmp_path / "time_bias.onnx", "onnxruntime")
    with pytest.raises(EngineError, match="time_bias.onnx: ONNX Runtime cannot load it: .*latentrt verify"):
        engine({"timestep": np.zeros(1, np.float32)})


def test_a_captured_call_that_fails_is_repeated_without_a_graph(captures, caplog):
    """ONNX Runtime refuses a run that is to end at once. The engine says so in one line, once."""
    engine, reference, feeds = bound("unet"), plain("unet"), unet_feeds(2)
    for _ in range(3):
        engine(feeds)
    session = engine.session
    [call] = captured(engine).values()
    call.options.terminate = True
    with caplog.at_level(logging.WARNING, "latentrt"):
        assert [same(engine(feeds), reference(feeds)) for _ in range(4)] == [True] * 4
    [record] = caplog.records
    assert record.getMessage() == (
        "unet: runs without a CUDA graph: Error in execution: Exiting due to terminate flag being set to true."
    )
    assert engine.session is not session  # its capture may be unfinished
    assert (engine.graphs, captured(engine)) == (False, {})


@pytest.mark.parametrize("stale", ["sample", "time_bias"])
def test_a_replay_with_old_inputs_is_found(captures, monkeypatch, caplog, stale):
    """As of a graph that reads other addresses than those that are written to."""
    fill = Slot.fill

    def fill_once(slot, feed, bound):
        if not (feed is feeds[stale] and slot in filled):
            filled.append(slot)
            fill(slot, feed, bound)

    filled = []
    monkeypatch.setattr(Slot, "fill", fill_once)
    engine, reference = bound("unet"), plain("unet")
    for step in range(5):
        feeds = {**unet_feeds(2, seed=step), "cross_kv": unet_feeds(2)["cross_kv"]}
        assert same(engine(feeds), reference(feeds))
    [record] = caplog.records
    assert re.fullmatch(
        r"unet: runs without a CUDA graph: got prediction that differs by [\d.]+ from a plain call's, of [\d.]+",
        record.getMessage(),
    )


@pytest.mark.parametrize(
    ("got", "alike"),
    [([1, -2], True), ([1, -2.019], True), ([1, -2.021], False), ([1, np.nan], False), ([1, np.inf], False)],
)
def test_results_that_are_alike(got, alike):
    """Differences count by the largest value."""
    outputs, expected = {"y": np.array(got, np.float16)}, {"y": np.array([1, -2], np.float16)}
    with nullcontext() if alike else pytest.raises(CaptureError, match="got y that differs by"):
        check_alike(outputs, expected)
    nothing = {"y": np.array([np.nan, np.inf], np.float16)}
    check_alike(nothing, {"y": nothing["y"].copy()})  # as wrong as a plain call's
    with pytest.raises(CaptureError, match="got y that differs by nan"):
        check_alike(nothing, {"y": np.array([0, np.inf], np.float16)})


def test_a_kept_output_of_a_captured_call_that_fails(captures, monkeypatch):
    monkeypatch.setattr(onnx_engine, "STEPWISE", ("vae_encoder",))
    engine, feeds = bound("vae_encoder"), {"image": np.full((1, 3, 16, 16), 0.5, np.float32)}
    for _ in range(2):
        keep(engine, feeds, ["mean"])
    captured(engine)[1].options.terminate = True
    assert np.array_equal(np.asarray(keep(engine, feeds, ["mean"])["mean"]), plain("vae_encoder")(feeds)["mean"])


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="onnxruntime-gpu is here")
def test_a_session_that_cannot_be_captured_is_opened_without(monkeypatch, caplog):
    """The real ONNX Runtime refuses, here for lack of the provider."""
    monkeypatch.setitem(GRAPH_PROVIDERS, "onnxruntime", GRAPH_PROVIDERS["cuda"])
    engine, feeds = bound("unet"), unet_feeds(1)
    assert engine.graphs
    with caplog.at_level(logging.WARNING, "latentrt"):
        assert [same(engine(feeds), plain("unet")(feeds)) for _ in range(3)] == [True] * 3
    [record] = caplog.records
    assert record.getMessage().startswith("unet: runs without a CUDA graph: ONNX Runtime")
    assert (engine.graphs, captured(engine)) == (False, {})


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="onnxruntime-gpu is here")
def test_a_session_that_cannot_be_opened_at_all(caplog):
    """The error is that of the session without graphs, and nothing is logged beside it."""
    engine = BoundEngine("unet", COMPONENTS["unet"], EMOJI / "unet.onnx", "cuda")
    assert engine.graphs
    with pytest.raises(EngineError, match="expected CUDAExecutionProvider; run `pip install"):
        engine.load()
    assert (engine.graphs, caplog.records) == (True, [])


def test_only_what_a_run_calls_at_every_step_is_captured(captures):
    assert {name: bound(name).graphs for name in COMPONENTS} == {name: name.startswith("unet") for name in COMPONENTS}
    assert not bound("unet", graphs=False).graphs


@pytest.mark.parametrize(("engine", "expected"), [("cuda", True), ("cuda-tensorrt", False), ("onnxruntime", False)])
def test_engines_that_are_captured(engine, expected):
    assert BoundEngine("unet", COMPONENTS["unet"], EMOJI / "unet.onnx", engine).graphs == expected


@pytest.mark.parametrize(("value", "expected"), [("", True), ("1", True), ("0", False)])
def test_the_option(captures, monkeypatch, value, expected):
    monkeypatch.setenv(cuda_graphs.VARIABLE, value)
    assert bound("unet").graphs == expected


def test_another_value_of_the_option(monkeypatch):
    monkeypatch.setenv(cuda_graphs.VARIABLE, "off")
    with pytest.raises(EngineError, match=r"LATENTRT_CUDA_GRAPH: got 'off', expected 0 for no CUDA graphs, or 1"):
        cuda_graphs.wanted()


def test_engines_with_a_device_of_their_own():
    kinds = {engine: type(open_engine_of(engine)) for engine in PROVIDERS}
    assert kinds == {"onnxruntime": OnnxRuntimeEngine, "cuda": BoundEngine, "cuda-tensorrt": BoundEngine}
    assert open_engine_of("cuda").device == "cuda"


def open_engine_of(engine):
    return onnx_engine.open_engine("unet", COMPONENTS["unet"], EMOJI, engine)


def test_the_choice_of_calls():
    """From the second call of a shape on; the first few shapes; numbers never change."""
    choice = GraphChoice(most=2)
    one, two, three = ((("x", (1,)),), (("x", (2,)),), (("x", (3,)),))
    assert [choice.number(shapes) for shapes in (one, one, one)] == [NO_GRAPH, 1, 1]
    assert [choice.number(shapes) for shapes in (two, three, two)] == [NO_GRAPH, NO_GRAPH, 2]
    assert [choice.number(shapes) for shapes in (three, three)] == [NO_GRAPH, NO_GRAPH]
    assert [choice.number(shapes) for shapes in (one, two)] == [1, 2]


def test_an_output_whose_size_no_input_tells_is_not_captured():
    """It can be kept all the same, in memory of the session."""
    spec = COMPONENTS["time_bias"].outputs[0]
    session = onnxruntime.InferenceSession(EMOJI / "time_bias.onnx", providers=["CPUExecutionProvider"])
    call = BoundSession(session, [replace(spec, shape=("unknown", 1696))], "cpu", graphs=True)
    feeds = {"timestep": np.arange(3, dtype=np.float32)}
    for _ in range(3):
        kept = call(feeds, {"n": 3}, ["time_bias"])["time_bias"]
    assert call.captured == {}
    assert np.array_equal(np.asarray(kept), plain("time_bias")(feeds)["time_bias"])


def test_threads_share_the_graphs(captures):
    """ONNX Runtime keeps them per thread, so all calls run on one."""
    engine, reference = bound("unet"), plain("unet")
    cases = [unet_feeds(1, seed=seed) for seed in range(8)]
    threads = set()
    session_call = BoundSession.__call__

    def noting(self, *arguments):
        threads.add(threading.current_thread())
        return session_call(self, *arguments)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(4) as pool:
        patch.setattr(BoundSession, "__call__", noting)
        found = list(pool.map(engine, cases * 2))
    assert all(same(got, reference(feeds)) for got, feeds in zip(found, cases * 2, strict=True))
    assert len(threads) == 1
    assert threads.pop() in device_thread()._threads
    assert len(captured(engine)) == 1


def test_an_engine_is_loaded_again_after_it_was_unloaded(captures):
    engine, reference, feeds = bound("unet"), plain("unet"), unet_feeds(1)
    for _ in range(2):
        for _ in range(3):
            assert same(engine(feeds), reference(feeds))
        engine.unload()
        assert engine.session is None
        assert engine.bound is None
    engine.load()
    assert engine.session is not None
    engine.close()
    assert engine.session is None


@pytest.mark.parametrize("options", [{"batch": 1}, {"batch": 3, "width": 48, "height": 64}])
def test_pictures_are_the_same_to_the_bit(captures, options):
    settings = {"steps": 3, "width": 64, "height": 48, "seed": 0, **options}
    with latentrt.load("emoji", engine="cpu", verify=False) as reference:
        expected = [np.asarray(image) for image in reference.generate("a red apple", **settings).images]
        with reference.with_engines({name: bound(name) for name in COMPONENTS}) as pipeline:
            found = [np.asarray(image) for image in pipeline.generate("a red apple", **settings).images]
            assert len(captured(pipeline.engines["unet"])) == 1
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
