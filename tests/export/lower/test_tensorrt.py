"""Lowered graphs say every type, and compute what the canonical ones do: held against ONNX Runtime and NumPy."""

import json
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import open_bundle
from latentrt.bundle.manifest import Fidelity
from latentrt.bundle.quantization import Quantization
from latentrt.engines.nvidia import lowered
from latentrt.errors import BundleError, FidelityError
from latentrt_export.graph.emulation import emulated
from latentrt_export.lower.attention import as_operator
from latentrt_export.lower.half import half
from latentrt_export.lower.tensorrt import GATES, lower, probe_feeds, run
from tests.export.parts import constant, graph_of, node, of_graph, some_of_the_built_in, spec_of, value

BUILT_IN = open_bundle(folder_of("emoji"), verify=False)
COMPONENTS = list(BUILT_IN.manifest.components)
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the built-in model is lowered."""
    path = tmp_path_factory.mktemp("plans")
    lower(BUILT_IN, path, "decomposed")
    return path


@pytest.fixture(scope="module")
def sources(folder):
    return {name: lowered.find(BUILT_IN, [folder], name, "decomposed") for name in COMPONENTS}


def small(x, w=((2.0,),), dtype=np.float32):
    """x times w, to which Relu is applied: (x, model)."""
    result, product = value("y", x), value("product", x)
    weight = constant("w", np.array(w, dtype))
    source = value("x", x)
    nodes = [node("MatMul", [source, weight], product), node("Relu", [product], result)]
    return graph_of(nodes, [source], [result], [weight])


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_component_of_the_built_in_model_keeps_within_its_gate(sources, name):
    record = sources[name].lowered
    assert record.floats == "fp16" and record.fidelity.gate == GATES["fp16"].words
    assert record.fidelity.psnr_db > 60, "far above the gate: nothing but rounding was lost"


@pytest.mark.parametrize("name", COMPONENTS)
def test_it_is_what_onnx_runtime_computes_from_the_canonical_graph(sources, name):
    feeds = probe_feeds(BUILT_IN, name, {})
    component = BUILT_IN.manifest.components[name]
    for output, reference in run(BUILT_IN.path(component.file), feeds).items():
        got = run(sources[name].graph, feeds)[output]
        assert got.dtype == reference.dtype and got.shape == reference.shape
        assert np.abs(got - reference).max() < 4e-3 * np.abs(reference).max()


@pytest.mark.parametrize("name", COMPONENTS)
def test_it_keeps_to_what_every_parser_reads(sources, name):
    onnx.checker.check_model(sources[name].graph, full_check=True)
    model, canonical = ir.load(sources[name].graph), ir.load(BUILT_IN.path(BUILT_IN.manifest.components[name].file))
    assert model.opset_imports[""] <= 20 and model.ir_version <= 10
    assert {node.domain for node in model.graph} == {""}
    assert described(model.graph.inputs) == described(canonical.graph.inputs)
    assert described(model.graph.outputs) == described(canonical.graph.outputs)


def described(values):
    return [(one.name, one.dtype, one.shape) for one in values]


@pytest.mark.parametrize("name", [name for name in COMPONENTS if name != "time_bias"])
def test_all_floats_in_between_are_fp16(sources, name):
    model = ir.load(sources[name].graph)
    ends = {v.name for v in (*model.graph.inputs, *model.graph.outputs)}
    inner = [v for node in model.graph for v in node.outputs if v.name not in ends]
    constants = [v for v in model.graph.initializers.values() if "Resize" not in {u.node.op_type for u in v.uses()}]
    assert {v.dtype for v in (*inner, *constants) if v.dtype in FLOATS} == {ir.DataType.FLOAT16}


def test_the_sinusoid_of_the_timestep_stays_float32(sources):
    graph = ir.load(sources["time_bias"].graph).graph
    waves = [node for node in graph if node.op_type in ("Sin", "Cos")]
    assert waves and all(node.inputs[0].dtype == node.outputs[0].dtype == ir.DataType.FLOAT for node in waves)
    gemms = [node for node in graph if node.op_type == "Gemm"]
    assert gemms and all(node.outputs[0].dtype == ir.DataType.FLOAT16 for node in gemms)


def test_weights_that_are_stored_in_half_precision_are_read_as_they_are(sources):
    for name in COMPONENTS:
        casts = [node for node in ir.load(sources[name].graph).graph if node.op_type == "Cast"]
        assert not [node for node in casts if node.inputs[0].is_initializer()]
        canonical = BUILT_IN.path(BUILT_IN.manifest.components[name].file)
        assert sources[name].graph.stat().st_size < 1.02 * canonical.stat().st_size


def test_what_is_emulated_is_fp16_to_the_bit():
    random = np.random.default_rng(0)
    x = random.standard_normal((64, 64)).astype(np.float32)
    a, b, c = value("a", x.shape), value("b", x.shape), value("c", x.shape)
    nodes = [node("Mul", [a, a], b), node("Add", [b, a], c)]
    model = emulated(half(graph_of(nodes, [a], [c], [])))
    (got,) = session(model).run(None, {"a": x})
    h = x.astype(np.float16)
    assert (got == (h * h + h).astype(np.float32)).all() and (got != x * x + x).any()


def test_without_the_casts_onnx_runtime_would_not_compute_in_fp16():
    """The reason for `emulated`: if this fails, ONNX Runtime has learnt fp16 on CPUs, and it can go."""
    x = np.float32([[300.0]])
    a, b, c = value("a", (1, 1)), value("b", (1, 1)), value("c", (1, 1))
    nodes = [node("Mul", [a, a], b), node("Sqrt", [b], c)]
    model = half(graph_of(nodes, [a], [c], []))
    assert session(model).run(None, {"a": x})[0] == 300, "300 squared is beyond 65504"
    assert np.isinf(session(emulated(model)).run(None, {"a": x})[0])


def session(model):
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])


def test_a_component_that_overflows_stays_fp32(tmp_path):
    lines = []
    bundle = of_graph(tmp_path / "b", model := small(("batch", 1), [[1e5]], np.float32), *ends(model))
    lower(bundle, tmp_path / "plans", "decomposed", lines.append)
    assert lowered.find(bundle, [tmp_path / "plans"], "part", "decomposed").lowered.floats == "fp32"
    assert "stays fp32" in lines[-1] and "65504" in lines[-1]


def test_a_component_whose_activations_overflow_stays_fp32(tmp_path):
    """As those of SDXL's VAE do: the weights are small, and yet what they make is not."""
    source, squared, again, root = (value(n, ("batch", 1)) for n in ("x", "x2", "x4", "y"))
    big = constant("w", np.float32([[300.0]]))
    hidden = value("h", ("batch", 1))
    nodes = [
        node("MatMul", [source, big], hidden),
        node("Mul", [hidden, hidden], squared),
        node("Mul", [squared, squared], again),
        node("Sqrt", [again], root),
    ]
    bundle = of_graph(tmp_path / "b", model := graph_of(nodes, [source], [root], [big]), *ends(model))
    lines = []
    lower(bundle, tmp_path / "plans", "decomposed", lines.append)
    found = lowered.find(bundle, [tmp_path / "plans"], "part", "decomposed").lowered
    assert found.floats == "fp32" and found.fidelity.psnr_db is None
    assert "stays fp32: got PSNR -inf dB" in lines[-1]


def ends(model):
    return [spec_of(v) for v in model.graph.inputs], [spec_of(v) for v in model.graph.outputs]


def test_a_component_exported_in_fp32_stays_so(tmp_path):
    bundle = some_of_the_built_in(tmp_path / "b", "cross_kv", cross_kv={"precision": "fp32"})
    lower(bundle, tmp_path / "plans", "decomposed")
    found = lowered.find(bundle, [tmp_path / "plans"], "cross_kv", "decomposed")
    assert found.lowered.floats == "fp32" and found.lowered.fidelity == Fidelity(0.0, None, GATES["fp32"].words)


def test_a_constant_beyond_fp16_is_refused_by_name():
    with pytest.raises(FidelityError, match="w: got a constant of 100000, expected at most 65504"):
        half(small(("batch", 1), [[1e5]]))


def test_infinite_constants_stay_so():
    graph = half(small((2, 1), [[-np.inf]])).graph
    (weight,) = [v for v in graph.initializers.values() if v.name.startswith("w")]
    assert weight.const_value.numpy() == -np.inf and weight.dtype == ir.DataType.FLOAT16


def test_resize_reads_its_scales_in_float32():
    source, larger = value("x", (1, 1, 4, 4)), value("y", (1, 1, 8, 8))
    scales = constant("scales", np.float32([1, 1, 2, 2]))
    model = half(
        graph_of([node("Resize", [source, None, scales], larger, mode="nearest")], [source], [larger], [scales])
    )
    assert model.graph.initializers["scales"].dtype == ir.DataType.FLOAT
    assert session(model).run(None, {"x": np.eye(4, dtype=np.float32)[None, None]})[0].shape == (1, 1, 8, 8)


@pytest.mark.parametrize("step", [1e-3, 3e-7, 1e-9])
def test_quantized_values_keep_their_scales_and_never_lose_them(step):
    """Scales are fp16 too, and none becomes zero: x / 0 would be NaN."""
    source, q, result = value("x", (4,)), value("q", (4,), ir.DataType.INT8), value("y", (4,))
    scale, zero = constant("s", np.float32(step)), constant("z", np.int8(0))
    nodes = [node("QuantizeLinear", [source, scale, zero], q), node("DequantizeLinear", [q, scale, zero], result)]
    model = half(graph_of(nodes, [source], [result], [scale, zero]))
    assert model.opset_imports[""] == 19
    assert {v.dtype for v in model.graph.initializers.values()} == {ir.DataType.FLOAT16, ir.DataType.INT8}
    (got,) = session(emulated(model)).run(None, {"x": np.float32([0, step, -3 * step, 9])})
    assert np.isfinite(got).all() and (got[0] == 0)
    if step > 1e-7:
        assert np.allclose(got[1:3], [step, -3 * step], rtol=0.2)


@pytest.mark.parametrize("name", COMPONENTS)
def test_attention_as_an_operator_is_the_same_attention(sources, name, tmp_path):
    model = ir.load(sources[name].graph)
    softmaxes = sum(node.op_type == "Softmax" for node in model.graph)
    feeds = probe_feeds(BUILT_IN, name, {})
    expected = run(sources[name].graph, feeds)
    assert as_operator(model) == softmaxes
    assert not any(node.op_type == "Softmax" for node in model.graph)
    assert model.opset_imports[""] == (23 if softmaxes else 18)
    ir.save(model, tmp_path / "operator.onnx")
    onnx.checker.check_model(tmp_path / "operator.onnx", full_check=True)
    for output, got in run(tmp_path / "operator.onnx", feeds).items():
        assert np.abs(got - expected[output]).max() < 4e-3 * np.abs(expected[output]).max()


def test_a_softmax_that_is_no_attention_stays():
    source, result = value("x", (2, 4)), value("y", (2, 4))
    model = graph_of([node("Softmax", [source], result)], [source], [result], [])
    assert as_operator(model) == 0 and [node.op_type for node in model.graph] == ["Softmax"]


def test_a_graph_quantized_for_a_cpu_is_refused_with_the_command(tmp_path):
    quantization = Quantization.__new__(Quantization)
    object.__setattr__(quantization, "target", "cpu")
    bundle = some_of_the_built_in(tmp_path / "b", "cross_kv")
    component = replace(bundle.manifest.components["cross_kv"], quantization=quantization)
    bundle = replace(bundle, manifest=replace(bundle.manifest, components={"cross_kv": component}))
    with pytest.raises(BundleError, match="quantized for cpu, .*`latentrt calibrate --target tensorrt`"):
        lower(bundle, tmp_path / "plans", "decomposed")
    assert not (tmp_path / "plans").exists()


def test_lowered_graphs_are_made_once_and_named_by_what_they_are_made_of(tmp_path):
    bundle, plans = some_of_the_built_in(tmp_path / "b", "cross_kv", "time_bias"), tmp_path / "plans"
    lines = []
    lower(bundle, plans, "decomposed", lines.append)
    lower(bundle, plans, "decomposed", lines.append)
    assert lines == ["cross_kv: lowering", "time_bias: lowering"]
    assert lowered.find(bundle, [tmp_path, plans], "cross_kv", "decomposed").folder.parent == plans / "lowered"
    assert lowered.find(bundle, [plans], "cross_kv", "operator") is None


@pytest.mark.parametrize("damage", ["flip", "cut", "record", "missing"])
def test_a_damaged_lowered_graph_is_not_used(tmp_path, damage):
    bundle, plans = some_of_the_built_in(tmp_path / "b", "cross_kv"), tmp_path / "plans"
    lower(bundle, plans, "decomposed")
    source = lowered.find(bundle, [plans], "cross_kv", "decomposed")
    content = bytearray(source.graph.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "record":
        record = json.loads((source.folder / lowered.RECORD).read_text())
        (source.folder / lowered.RECORD).write_text(json.dumps(record | {"floats": "fp8"}))
    elif damage == "missing":
        source.graph.unlink()
    else:
        source.graph.write_bytes(content if damage == "flip" else content[:-1])
    with pytest.raises(BundleError, match="damaged .* remove this folder"):
        lowered.find(bundle, [plans], "cross_kv", "decomposed")


def test_a_graph_that_lowering_breaks_leaves_nothing_behind(tmp_path, monkeypatch):
    bundle, plans = some_of_the_built_in(tmp_path / "b", "cross_kv"), tmp_path / "plans"

    def broken(model):
        for tensor in model.graph.initializers.values():
            if tensor.dtype in FLOATS:
                tensor.const_value = ir.Tensor(-tensor.const_value.numpy(), name=tensor.name)
        return model

    monkeypatch.setattr("latentrt_export.graph.emulation.emulated", broken)
    with pytest.raises(FidelityError, match="cross_kv: got PSNR .* dB against the canonical graph"):
        lower(bundle, plans, "decomposed")
    assert list((plans / "lowered").iterdir()) == []
