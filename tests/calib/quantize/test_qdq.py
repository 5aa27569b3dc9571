"""Q/DQ graphs: what they compute, against the definition in NumPy; what ONNX Runtime makes of them; what is in them."""

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from latentrt_calib.quantize import qdq
from latentrt_calib.quantize.bias import bias_correction
from latentrt_calib.quantize.plan import TARGETS, LayerPlan, Scale
from latentrt_export.graph.eight_bit_weights import dequantized, quantized
from latentrt_export.graph.eight_bits import weight_only
from latentrt_export.graph.layers import layer_nodes, layers_of, output_axis, weight_of
from tests.calib.toy_plans import plans_of, split_toy, written
from tests.export import toy

PRECISIONS = list(toy.FLOATS)


def fake(x, scale, scheme):
    """What is left of x in 8 bits: QuantizeLinear and DequantizeLinear by their definition."""
    steps = np.clip(np.rint(x / np.float32(scale.scale)) + scale.zero, scheme.lowest, scheme.highest)
    return (steps - scale.zero).astype(np.float32) * np.float32(scale.scale)


def convolved(x, weight, bias, pads, stride):
    """A convolution by its definition, in float64."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pads, pads), (pads, pads)))
    side = weight.shape[2]
    rows, columns = ((size - side) // stride + 1 for size in x.shape[2:])
    out = np.zeros((len(x), len(weight), rows, columns))
    for row in range(rows):
        for column in range(columns):
            window = x[:, :, row * stride : row * stride + side, column * stride : column * stride + side]
            out[:, :, row, column] = np.einsum("nchw,ochw->no", window, weight)
    return out + bias[:, None, None]


@pytest.mark.parametrize("target", TARGETS)
def test_a_convolution_computes_what_its_plan_says(target, tmp_path):
    model, layers = split_toy()
    plans = plans_of(model, layers, target, toy.feeds(batch=32), tmp_path)
    plan = replace(plans["block.conv2"], bias_delta=np.linspace(-1, 1, toy.CHANNELS).astype(np.float32))
    bias = layer_nodes(model.graph)["block.conv2"].inputs[2].const_value.numpy() + plan.bias_delta
    qdq.write_qdq(model, {"block.conv2": plan}, target)
    scheme = TARGETS[target].activations
    made = toy.run(model, toy.feeds(), tmp_path, extra=["block.two.swish", "block.conv2", "block.out", "conv_in"])[0]
    x, weight = fake(made["block.two.swish"], plan.input, scheme), dequantized(plan.weight, plan.weight_scale, 0)
    expected = convolved(x, weight, bias, 1, 1)
    half_a_step = plan.input.scale * plan.weight_scale / 2 if target == "cpu" else 0 * plan.weight_scale
    error = np.abs(made["block.conv2"] - expected).max((0, 2, 3))
    assert (error <= half_a_step + 1e-5).all()
    if target == "cpu":
        out = fake(made["block.conv2"], plan.output, scheme) + made["conv_in"]
    else:
        out = made["block.conv2"] + fake(made["conv_in"], plan.residual, scheme)
    np.testing.assert_allclose(made["block.out"], out, atol=1e-5)


@pytest.mark.parametrize("name", ["attn.to_q", "attn.to_out.0"])
@pytest.mark.parametrize("corrected", [False, True])
def test_a_product_computes_what_its_plan_says(name, corrected, tmp_path):
    model, layers = split_toy()
    plan = plans_of(model, layers, "cpu", toy.feeds(batch=32), tmp_path)[name]
    layer = next(layer for layer in layers if layer.name == name)
    delta = np.linspace(-1, 1, toy.CHANNELS).astype(np.float32)
    bias = next((v.const_value.numpy() for v in model.graph.initializers.values() if v.name == f"net.{name}.bias"), 0)
    qdq.write_qdq(model, {name: replace(plan, bias_delta=delta) if corrected else plan}, "cpu")
    names = {value.name for node in model.graph for value in node.outputs}
    output = next((end for end in (f"{name}.biased",) if end in names), name)
    made = toy.run(model, toy.feeds(), tmp_path, extra=[layer.input, output])[0]
    x = fake(made[layer.input], plan.input, TARGETS["cpu"].activations)
    expected = x @ dequantized(plan.weight, plan.weight_scale, 1) + bias + (delta if corrected else 0)
    np.testing.assert_allclose(made[output], expected, atol=1e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_whole_graph_stays_close(precision, target, batch, tmp_path):
    model, _ = written(target, precision, tmp_path)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert model.opset_imports[""] <= 20 and model.ir_version <= 10
    inputs = toy.feeds(precision, batch)
    expected = toy.run(toy.build(precision), inputs, tmp_path)[0]["conv_out"].astype(np.float64)
    for optimize in (False, True):
        got = toy.run(model, inputs, tmp_path, optimize=optimize)[0]["conv_out"]
        assert got.dtype == toy.FLOATS[precision]
        assert 10 * np.log10(np.mean(expected**2) / np.mean((got - expected) ** 2)) > 25


def test_onnx_runtime_computes_every_planned_layer_in_8_bits(tmp_path):
    for precision in ("fp32", "w16"):
        model, plans = written("cpu", precision, tmp_path)
        operators = Counter(
            layer_nodes(toy.build(precision).graph)[name].op_type for name in plans if "shortcut" not in name
        )
        _, optimized = toy.run(model, toy.feeds(precision), tmp_path, optimize=True)
        got = Counter(node.op_type for node in optimized.graph)
        assert got["QLinearConv"] == operators["Conv"] + 2  # the two halves of the shortcut
        assert got["MatMulIntegerToFloat"] == operators["MatMul"]
        assert (got["Conv"], got["MatMul"] + got["FusedMatMul"]) == (
            2,
            2,
        )  # the first, the last, and attention's two products


def test_without_a_scale_for_the_output_nothing_is_written_there(tmp_path):
    model, _ = written("cpu", "fp32", tmp_path, lambda plans: {k: replace(v, output=None) for k, v in plans.items()})
    assert not [
        node for node in model.graph if node.op_type == "QuantizeLinear" and node.inputs[0].name == "block.conv1"
    ]


@pytest.mark.parametrize("target", TARGETS)
def test_one_pair_a_tensor_and_scale(target, tmp_path):
    model, plans = written(target, "fp32", tmp_path)
    pairs = Counter(node.inputs[0].name for node in model.graph if node.op_type == "QuantizeLinear")
    assert set(pairs.values()) == {1}
    assert pairs["attn.norm"] == 1  # q, k and v share it
    readers = [node for node in model.graph if node.op_type == "MatMul" and "to_" in node.name]
    assert len({node.inputs[0] for node in readers}) == 2
    shifted = {"attn.to_k": replace(plans["attn.to_k"], input=Scale(0.5)), "attn.to_q": plans["attn.to_q"]}
    model, _ = written(target, "fp32", tmp_path, lambda plans: shifted)
    assert Counter(node.inputs[0].name for node in model.graph if node.op_type == "QuantizeLinear")["attn.norm"] == 2


def test_tensorrt_s_rules(tmp_path):
    model, plans = written("tensorrt", "fp32", tmp_path)
    constants = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = constants[node.inputs[2].name]
            assert zero.dtype == np.int8 and not zero.any()
    assert "int32" not in {str(array.dtype) for array in constants.values()}
    adds = {node.outputs[0].name: node for node in model.graph if node.op_type == "Add"}
    for output in ("block.out", "attn.out"):
        sides = [value.producer().op_type == "DequantizeLinear" for value in adds[output].inputs]
        assert sorted(sides) == [False, True]
    assert sum(plan.residual is not None for plan in plans.values()) >= 2


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("target", TARGETS)
def test_float_weights_leave_the_graph(precision, target, tmp_path):
    model, plans = written(target, precision, tmp_path)
    inside = [name for name in model.graph.initializers if name.startswith("net.") and ".weight" in name]
    kept = [name for name in inside if not name.endswith((".quantized", ".scale", ".zero"))]
    assert {name.split(".weight")[0] for name in kept} == {"net.conv_in", "net.conv_out", "net.attn.norm"}
    weights = [model.graph.initializers[name].const_value for name in inside if name.endswith(".quantized")]
    assert len(weights) == len(plans)
    assert {weight.dtype for weight in weights} == {ir.DataType.INT8}
    largest = max(np.abs(weight.numpy().astype(int)).max() for weight in weights)
    assert largest == TARGETS[target].largest_weight
    assert not [
        node for node in model.graph if not any(value.uses() or value.is_graph_output() for value in node.outputs)
    ]


def test_weights_that_stay_are_not_copied(tmp_path):
    ir.save(toy.build(), tmp_path / "toy.onnx", external_data="toy.onnx.data", size_threshold_bytes=64)
    model = ir.load(tmp_path / "toy.onnx")
    layers = layers_of(model, toy.SHAPES)
    plans = plans_of(toy.build(), layers, "cpu", toy.feeds(batch=32), tmp_path)
    qdq.write_qdq(model, {"block.conv1": plans["block.conv1"]}, "cpu")
    external = [n for n, v in model.graph.initializers.items() if isinstance(v.const_value, ir.ExternalTensor)]
    assert "net.conv_out.weight" in external and "net.block.conv1.weight" not in external


def test_smoothed_layers_share_one_division(tmp_path):
    factors = np.random.default_rng(0).uniform(0.5, 2, toy.CHANNELS).astype(np.float32)
    names = ["attn.to_q", "attn.to_k", "attn.to_v"]
    model, layers = split_toy()
    plans = plans_of(model, layers, "cpu", toy.feeds(batch=32), tmp_path)
    nodes = layer_nodes(model.graph)
    smoothed = {}
    for name in names:
        weight = quantized(weight_of(nodes[name]) * factors[:, None], 1, largest=64)
        smoothed[name] = LayerPlan(Scale(0.05, 128), *weight, smooth=factors)
    expected = toy.run(model, toy.feeds(), tmp_path)[0]["conv_out"]
    whole, partly = model.clone(), model.clone()
    qdq.write_qdq(whole, smoothed, "cpu")
    assert not [node for node in whole.graph if node.name.endswith(".smoothed")]
    qdq.write_qdq(partly, smoothed | {"attn.to_v": plans["attn.to_v"]}, "cpu")
    assert len([node for node in partly.graph if node.name.endswith(".smoothed")]) == 1
    for quantized_model in (whole, partly):
        got = toy.run(quantized_model, toy.feeds(), tmp_path)[0]["conv_out"]
        assert 10 * np.log10(np.mean(expected**2) / np.mean((got - expected) ** 2)) > 20


def test_a_bias_far_larger_than_its_weights_is_kept(tmp_path):
    model, layers = split_toy()
    plan = plans_of(model, layers, "cpu", toy.feeds(batch=32), tmp_path)["block.conv1"]
    plan.weight_scale[0] = 1e-12
    bias = layer_nodes(model.graph)["block.conv1"].inputs[2].const_value.numpy()
    qdq.write_qdq(model, {"block.conv1": plan}, "cpu")
    made = {value.name: value.const_value.numpy() for value in model.graph.initializers.values()}
    steps, scale = made["block.conv1.bias.quantized"], made["block.conv1.bias.scale"]
    np.testing.assert_allclose(steps * scale, bias, atol=float(scale[1:].max()) / 2)
    assert np.abs(steps.astype(np.int64)).max() <= 2**30 * 1.0001


def test_bias_correction_moves_the_mean_output_back(tmp_path):
    model, layers = split_toy()
    layer = next(layer for layer in layers if layer.name == "block.time")
    node = layer_nodes(model.graph)["block.time"]
    inputs = toy.feeds(batch=64)
    inputs["time"] += 3
    exact = toy.run(model, inputs, tmp_path, extra=[layer.output])[0][layer.output]
    values, scale = quantized(weight_of(node), 0, largest=7)
    plan = LayerPlan(Scale(0.05), values, scale)
    delta = bias_correction(weight_of(node), values, scale, inputs["time"].mean(0))
    errors = {}
    for change in (None, delta):
        copy = model.clone()
        qdq.write_qdq(copy, {"block.time": replace(plan, bias_delta=change)}, "tensorrt")
        got = toy.run(copy, inputs, tmp_path, extra=[layer.output])[0][layer.output]
        errors[change is None] = np.abs((got - exact).mean(0)).max()
    assert errors[False] < errors[True] / 10


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weight_only_loses_what_the_weights_lose(precision, tmp_path):
    model, inputs = toy.build(precision), toy.feeds(precision)
    expected = toy.run(model, inputs, tmp_path)[0]["conv_out"].astype(np.float64)
    names = list(layer_nodes(model.graph))
    nodes = layer_nodes(model.graph)
    wanted = {}
    for name, node in nodes.items():
        values = quantized(weight_of(node), output_axis(node), scale_dtype=toy.FLOATS[precision])
        wanted[name] = dequantized(*values, output_axis(node))
    weight_only(model, names)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert not [node for node in model.graph if node.op_type == "QuantizeLinear"]
    made = toy.run(model, inputs, tmp_path, extra=[node.inputs[1].name for node in nodes.values()])[0]
    for name, node in nodes.items():
        np.testing.assert_allclose(made[node.inputs[1].name], wanted[name], rtol=2e-3 if precision == "fp16" else 1e-6)
    assert 10 * np.log10(np.mean(expected**2) / np.mean((made["conv_out"] - expected) ** 2)) > 35


def test_the_order_of_the_names_does_not_change_the_bytes():
    made = []
    for step in (1, -1):
        model = toy.build()
        weight_only(model, list(layer_nodes(model.graph))[::step])
        made.append(ir.to_proto(model).SerializeToString(deterministic=True))
    assert made[0] == made[1]


def test_what_is_quantized_already_is_known(tmp_path):
    assert not qdq.is_quantized(toy.build())
    assert qdq.is_quantized(written("cpu", "fp32", tmp_path)[0])
    model = toy.build()
    weight_only(model, ["block.conv1"])
    assert qdq.is_quantized(model)


@pytest.mark.parametrize("target", TARGETS)
def test_the_same_plans_give_the_same_bytes(target, tmp_path):
    files = []
    for turn in (dict, lambda plans: dict(reversed(plans.items()))):
        model, _ = written(target, "w16", tmp_path, turn)
        files.append(ir.to_proto(model).SerializeToString(deterministic=True))
    assert files[0] == files[1]


def test_a_plan_for_no_layer_is_refused(tmp_path):
    with pytest.raises(KeyError, match="no such layers in the graph: elsewhere"):
        written("cpu", "fp32", tmp_path, lambda plans: {"elsewhere": plans["block.conv1"]})
