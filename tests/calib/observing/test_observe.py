"""Observing graphs: small ones against NumPy, stopped and resumed, and the built-in UNet against ONNX Runtime."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

import latentrt
from latentrt import EngineError, OutputError
from latentrt.bundle.catalog import MODELS
from latentrt.bundle.folder import open_bundle
from latentrt_calib.observing.histogram import Histogram, merged
from latentrt_calib.observing.observe import ObservationSettings, bucket_of, observe
from latentrt_calib.observing.session import groups_within, instrumented
from latentrt_calib.recording.record import record
from tests.runtime.fake import pipeline_of

BUNDLE = open_bundle(MODELS / "emoji", verify=False)
INPUTS = BUNDLE.manifest.components["unet"].inputs
HOW = ObservationSettings(buckets=4, rows=16, save_after_s=0)
VALUES = ("sample", "conv", "relu", "keys", "prediction", "cross_kv")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Three images of three steps, through engines that answer by formulas."""
    prompts = ("a cat", "a dog", "a red apple")
    return record(pipeline_of(BUNDLE, []), prompts, steps=3, folder=tmp_path_factory.mktemp("recording"))


def value(name, shape=None):
    typed = {"shape": ir.Shape(shape), "type": ir.TensorType(ir.DataType.FLOAT)} if shape else {}
    return ir.Value(name=name, **typed)


def weight(name, array):
    return ir.Value(name=name, const_value=ir.tensor(array.astype(np.float32), name=name))


def small_unet(scale=1.0):
    """A graph with the UNet's inputs: a convolution, and a product with cross-attention's keys and values."""
    rng = np.random.default_rng(0)
    inputs = [value(spec.name, spec.shape) for spec in INPUTS]
    kernel = weight("kernel", scale * rng.standard_normal((4, 4, 1, 1)))
    matrix = weight("matrix", rng.standard_normal((inputs[2].shape[2], 6)))
    conv, relu, keys, prediction = value("conv"), value("relu"), value("keys"), value("prediction", inputs[0].shape)
    nodes = [
        ir.node("Conv", [inputs[0], kernel], outputs=[conv]),
        ir.node("Relu", [conv], outputs=[relu]),
        ir.node("MatMul", [inputs[2], matrix], outputs=[keys]),
        ir.node("Add", [relu, inputs[0]], outputs=[prediction]),
    ]
    graph = ir.Graph(
        inputs, [prediction], nodes=nodes, initializers=[kernel, matrix], opset_imports={"": 18}, name="small"
    )
    return ir.Model(graph, ir_version=10)


def expected(recording, model):
    """Every value of every call, by NumPy."""
    kernel, matrix = (model.graph.initializers[name].const_value.numpy() for name in ("kernel", "matrix"))
    for call in recording:
        sample, kv = call.feeds["sample"], call.feeds["cross_kv"]
        conv = np.einsum("oi,bihw->bohw", kernel[:, :, 0, 0], sample)
        relu = np.maximum(conv, 0)
        found = {"sample": sample, "cross_kv": kv, "conv": conv, "relu": relu, "keys": kv @ matrix}
        yield call, found | {"prediction": relu + sample}


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_observations_are_those_of_numpy(tmp_path, recording):
    model = small_unet()
    found = observe(model, VALUES, recording, tmp_path, HOW)
    assert tuple(found) == VALUES and len(found) == len(VALUES)
    calls = list(expected(recording, model))
    for name in VALUES:
        axis = 1 if name in ("sample", "conv", "relu", "prediction") else 2
        rows = [np.moveaxis(values[name], axis, -1).reshape(-1, values[name].shape[axis]) for _, values in calls]
        buckets = [min(int(call.timestep / 250), 3) for call, _ in calls]
        for bucket in range(4):
            here = [row for row, at in zip(rows, buckets, strict=True) if at == bucket]
            assert found[name].histograms[bucket].count == sum(row.size for row in here)
            if here:
                here = np.concatenate(here)
                assert found[name].counts[bucket] == len(here)
                np.testing.assert_allclose(found[name].absmax[bucket], np.abs(here).max(0), rtol=1e-5, atol=1e-5)
                np.testing.assert_allclose(found[name].means[bucket], here.mean(0), rtol=1e-4, atol=1e-5)
            else:
                assert not found[name].absmax[bucket].any() and not found[name].means[bucket].any()
        rows = np.concatenate(rows)
        assert found[name].histogram.high == pytest.approx(rows.max(), rel=1e-5)
        np.testing.assert_allclose(found[name].channel_absmax, np.abs(rows).max(0), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found[name].channel_mean, rows.mean(0), rtol=1e-4, atol=1e-5)
        assert found[name].rows.shape == ((0 if axis == 1 else 16), rows.shape[1])
        for row in found[name].rows:
            assert np.isclose(rows, row, rtol=1e-4, atol=1e-4).all(1).any()


def test_the_counts_are_exact(tmp_path, recording):
    found = observe(small_unet(), ["sample"], recording, tmp_path, HOW)["sample"].histogram
    samples = np.concatenate([call.feeds["sample"].ravel() for call in recording])
    np.testing.assert_array_equal(found.counts, np.histogram(samples.astype(np.float64), found.edges())[0])


def small_shallow(inputs):
    """A graph with some of the values of `small_unet`, which are larger here."""
    values = {spec.name: value(spec.name, spec.shape) for spec in inputs}
    kernel, conv, prediction = weight("kernel", 50 * np.eye(4)[:, :, None, None]), value("conv"), value("prediction")
    nodes = [
        ir.node("Conv", [values["sample"], kernel], outputs=[conv]),
        ir.node("Add", [conv, values["sample"]], outputs=[prediction]),
    ]
    prediction.shape, prediction.type = values["sample"].shape, values["sample"].type
    opsets = {"": 18}
    graph = ir.Graph([*values.values()], [prediction], nodes=nodes, initializers=[kernel], opset_imports=opsets)
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("group_bytes", [1, 1 << 30])
def test_calls_of_the_shallow_unet_are_added_to_the_values_that_it_has(tmp_path, recording, group_bytes):
    how, shallow = replace(HOW, group_bytes=group_bytes), list(recording.of("unet_shallow"))
    assert [call.image for call in shallow] == [0, 1, 2]
    alone = observe(small_unet(), VALUES, recording, tmp_path / "alone", how)
    graph = small_shallow(BUNDLE.manifest.components["unet_shallow"].inputs)
    both = observe(small_unet(), VALUES, recording, tmp_path / "both", how, shallow=graph)
    samples = np.concatenate([call.feeds["sample"].ravel() for call in shallow])
    for name, factor in (("sample", 1), ("conv", 50), ("prediction", 51)):
        one, other = alone[name].histogram, both[name].histogram
        assert other.count == one.count + samples.size
        assert other.high == pytest.approx(max(one.high, factor * samples.max()), rel=1e-5)
        assert other.low == pytest.approx(min(one.low, factor * samples.min()), rel=1e-5)
    assert both["conv"].histogram.high > 2 * alone["conv"].histogram.high
    for name in ("relu", "keys", "cross_kv"):
        assert both[name].histogram.counts.tolist() == alone[name].histogram.counts.tolist()
    with pytest.raises(OutputError, match="got work begun with another"):
        observe(small_unet(), VALUES, recording, tmp_path / "both", how)


def test_groups_do_not_matter(tmp_path, recording):
    one = observe(small_unet(), VALUES, recording, tmp_path / "one", HOW)
    each = observe(small_unet(), VALUES, recording, tmp_path / "each", replace(HOW, group_bytes=1))
    assert len(one.groups) == 1 and each.groups == tuple((name,) for name in VALUES)
    for name in VALUES:
        assert one[name].histogram.counts.tolist() == each[name].histogram.counts.tolist()
        np.testing.assert_array_equal(one[name].rows, each[name].rows)
        np.testing.assert_array_equal(one[name].means, each[name].means)


def test_groups_hold_what_fits_in_order():
    shapes = {"a": (2, 3), "b": (4,), "c": (100,), "d": (1,), "e": (9,), "f": ()}
    assert groups_within(shapes, 40) == [["a", "b"], ["c"], ["d", "e"], ["f"]]
    assert groups_within(shapes, 10_000) == [list(shapes)]
    assert groups_within({}, 40) == []


@pytest.mark.parametrize(("group_bytes", "stops"), [(1, (4, 9, 17)), (1 << 30, (0, 1, 2))])
def test_a_stopped_pass_goes_on_to_the_same_bytes(tmp_path, recording, group_bytes, stops):
    how, lines = replace(HOW, group_bytes=group_bytes), []
    observe(small_unet(), VALUES, recording, tmp_path / "whole", how, lines.append)
    assert len(lines) == stops[-1] + 1
    for stop in stops:
        said = []

        def progress(line, said=said, stop=stop):
            said.append(line)
            if len(said) > stop:
                raise KeyboardInterrupt

        folder = tmp_path / f"stopped{stop}"
        with pytest.raises(KeyboardInterrupt):
            observe(small_unet(), VALUES, recording, folder, how, progress)
        rest = []
        observe(small_unet(), VALUES, recording, folder, how, rest.append)
        assert rest == lines[stop:]
        assert files_of(folder) == files_of(tmp_path / "whole")


def test_what_is_done_is_not_done_again(tmp_path, recording):
    lines = []
    observe(small_unet(), VALUES, recording, tmp_path, HOW, lines.append)
    assert lines == [f"observing unet part 1 of 1: image {image} of 3" for image in (1, 2, 3)]
    before = files_of(tmp_path)
    observe(small_unet(), VALUES, recording, tmp_path, HOW, lines.append)
    assert len(lines) == 3 and files_of(tmp_path) == before
    (tmp_path / "group-000.npz").write_bytes(before["group-000.npz"][:-1000])
    observe(small_unet(), VALUES, recording, tmp_path, HOW, lines.append)
    assert len(lines) == 6 and files_of(tmp_path) == before


@pytest.mark.parametrize(
    ("model", "values", "how", "named"),
    [
        (small_unet(2), VALUES, HOW, "model"),
        (small_unet(), VALUES[:2], HOW, "values"),
        (small_unet(), VALUES, replace(HOW, buckets=5), "buckets"),
        (small_unet(), VALUES, replace(HOW, rows=5, seed=1), "rows, seed"),
    ],
)
def test_other_work_in_the_folder_is_refused(tmp_path, recording, model, values, how, named):
    observe(small_unet(), VALUES, recording, tmp_path, HOW)
    before = files_of(tmp_path)
    with pytest.raises(OutputError, match=f"observations.json: got work begun with another {named};"):
        observe(model, values, recording, tmp_path, how)
    assert files_of(tmp_path) == before
    observe(small_unet(), VALUES, recording, tmp_path, replace(HOW, save_after_s=9))


def test_weights_outside_the_graph_are_read_where_they_are(tmp_path, recording):
    """The folder of the bundle stays as it is: nothing is written there, and nothing is copied."""
    home = tmp_path / "bundle"
    home.mkdir()
    ir.save(small_unet(), home / "unet.onnx", external_data="unet.onnx.data")
    before = files_of(home)
    assert set(before) == {"unet.onnx", "unet.onnx.data"}
    inside = observe(small_unet(), VALUES, recording, tmp_path / "inside", HOW)
    outside = observe(home / "unet.onnx", VALUES, recording, tmp_path / "outside", HOW)
    assert files_of(home) == before
    for name in VALUES:
        assert outside[name].histogram.counts.tolist() == inside[name].histogram.counts.tolist()
    data = bytearray(before["unet.onnx.data"])
    data[-1] ^= 1
    (home / "unet.onnx.data").write_bytes(data)
    with pytest.raises(OutputError, match="begun with another model"):
        observe(home / "unet.onnx", VALUES, recording, tmp_path / "outside", HOW)


@pytest.mark.parametrize("large", ["many folders", "too many bytes"])
def test_a_changed_graph_with_large_weights_is_written_for_a_while(tmp_path, recording, monkeypatch, large):
    model = small_unet()
    expected = observe(model, VALUES, recording, tmp_path / "small", HOW)
    if large == "too many bytes":
        monkeypatch.setattr("latentrt_calib.observing.session.LARGEST_EMBEDDED_BYTES", 100)
    else:
        for name in ("kernel", "matrix"):
            (tmp_path / name).mkdir()
            ir.save(small_unet(), tmp_path / name / "unet.onnx", external_data="unet.onnx.data", size_threshold_bytes=0)
            other = ir.load(tmp_path / name / "unet.onnx").graph.initializers[name].const_value
            model.graph.initializers[name].const_value = other
    scratch = tmp_path / "scratch"
    assert instrumented(model, scratch).weights == scratch
    found = observe(model, VALUES, recording, tmp_path / "large", HOW)
    assert set(files_of(tmp_path / "large")) == set(files_of(tmp_path / "small"))
    for name in VALUES:
        assert found[name].histogram.counts.tolist() == expected[name].histogram.counts.tolist()


def test_observing_leaves_the_model_as_it_is(tmp_path, recording):
    model = small_unet()
    before = ir.to_proto(model).SerializeToString()
    observe(model, VALUES, recording, tmp_path, HOW)
    assert ir.to_proto(model).SerializeToString() == before


def test_what_cannot_be_observed_is_refused(tmp_path, recording):
    with pytest.raises(ValueError, match="values: the graph has no none, kernel"):
        observe(small_unet(), ["conv", "none", "kernel"], recording, tmp_path / "one", HOW)
    with pytest.raises(EngineError, match="conv: got a value that is not finite in image 1, step 1; calibrate"):
        observe(small_unet(np.inf), ["conv"], recording, tmp_path / "two", HOW)
    model = small_unet()
    next(iter(model.graph)).op_type = "NoSuchOperator"
    with pytest.raises(EngineError, match="cannot load the graph to observe"):
        observe(model, ["conv"], recording, tmp_path / "three", HOW)
    found = observe(small_unet(), ["conv"], recording, tmp_path / "four", HOW)
    with pytest.raises(KeyError):
        found["relu"]


@pytest.mark.parametrize(
    ("timestep", "bucket"), [(0, 0), (99.9, 0), (100, 1), (499.5, 4), (999, 9), (1000, 9), (-0.2, 0)]
)
def test_buckets_are_equal_parts_of_the_timesteps(timestep, bucket):
    assert bucket_of(timestep, 1000, 10) == bucket


def test_the_built_in_unet_is_observed_as_onnxruntime_runs_it(tmp_path):
    with latentrt.load("emoji", verify=False) as pipeline:
        recording = record(pipeline, ["a red apple"], steps=2, folder=tmp_path / "recording")
    path = BUNDLE.path(BUNDLE.manifest.components["unet"].file)
    tapped = ir.load(path)
    inputs = [node.inputs[0] for node in tapped.graph if node.op_type in ("Conv", "MatMul", "Gemm")]
    inputs = {value.name: value for value in inputs if value.producer()}
    chosen = list(inputs)[5::29]
    found = observe(path, chosen, recording, tmp_path / "observations", ObservationSettings(buckets=2, rows=8))
    tapped.graph.outputs.extend(inputs[name] for name in chosen)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(ir.to_proto(tapped).SerializeToString(), options)
    runs = [dict(zip(chosen, session.run(chosen, dict(call.feeds)), strict=True)) for call in recording]
    for name in chosen:
        values = np.stack([run[name] for run in runs])
        histogram = Histogram()
        histogram.add(values)
        got = merged(found[name].histograms)
        assert got.count == values.size
        # Differences of rounding move a value into the next bin now and then.
        assert np.abs(got.counts.cumsum() - histogram.counts.cumsum()).max() <= 0.002 * values.size
        assert (got.low, got.high) == pytest.approx((values.min(), values.max()), rel=1e-3)
