"""SmoothQuant: the factors, the search for alpha, and that the graph computes the same in float."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from latentrt_calib.quantize.ranges import S8, U8
from latentrt_calib.quantize.smooth import divide, scales, search
from latentrt_export.graph.constants import add_constant, replace_input
from latentrt_export.graph.layers import float_type, layer_nodes, weight_of
from tests.export import toy

ATTENTION = ["attn.to_q", "attn.to_k", "attn.to_v"]
TOLERANCE = {"fp32": 1e-5, "w16": 1e-5, "fp16": 2e-2}


def test_factors_are_equation_4():
    inputs, weights = np.array([1.0, 16.0, 0.25]), np.array([4.0, 1.0, 0.5])
    np.testing.assert_allclose(scales(inputs, weights, 0.5), [1 / 2, 4, 2**-0.5], rtol=1e-6)
    np.testing.assert_allclose(scales(inputs, weights, 1.0), inputs, rtol=1e-6)
    np.testing.assert_allclose(scales(inputs, weights, 0.0), 1 / weights, rtol=1e-6)


def test_half_makes_both_sides_equally_wide():
    random = np.random.default_rng(0)
    inputs, weights = random.uniform(0.1, 50, 20), random.uniform(0.1, 2, 20)
    factors = scales(inputs, weights, 0.5)
    np.testing.assert_allclose(inputs / factors, weights * factors, rtol=1e-6)


def test_channels_that_are_never_used_are_left_alone():
    np.testing.assert_array_equal(scales(np.array([0, 2.0]), np.array([3.0, 0]), 0.5), [1, 1])


def outlying(channels=32, rows=256, factor=60.0):
    """Inputs of which one channel is far larger, as LayerNorms of transformers make them, and two weights."""
    random = np.random.default_rng(0)
    inputs = random.standard_normal((rows, channels)).astype(np.float32)
    inputs[:, 3] *= factor
    return inputs, [random.standard_normal((channels, out)).astype(np.float32) for out in (16, 24)]


@pytest.mark.parametrize("scheme", [S8, U8], ids=lambda scheme: scheme.dtype)
def test_an_outlier_is_worth_smoothing(scheme):
    inputs, weights = outlying()
    found = search(inputs, weights, scheme=scheme)
    assert found.alpha is not None and found.scales.shape == (32,)
    assert found.scales.argmax() == 3
    assert found.error < found.plain_error / 10
    # The error is that of the two quantized operands, worked out here from their definition.
    x, w = inputs / found.scales, np.concatenate(weights, 1) * found.scales[:, None]
    low, high = (min(x.min(), 0), max(x.max(), 0)) if scheme is U8 else (0, np.abs(x).max())
    step, zero = (high - low) / (255 if scheme is U8 else 127), 0
    zero = np.rint(-low / step)
    rough_x = (np.clip(np.rint(x / step) + zero, *((0, 255) if scheme is U8 else (-128, 127))) - zero) * step
    wide = np.abs(w).max(0) / 127
    exact = inputs @ np.concatenate(weights, 1)
    error = np.mean((rough_x @ (np.rint(w / wide) * wide) - exact) ** 2) / np.mean(exact**2)
    assert found.error == pytest.approx(error, rel=0.01)


def test_smoothing_is_never_worse_than_none():
    random = np.random.default_rng(2)
    inputs, weight = random.choice([-1.0, 1.0], (64, 8)), random.choice([-1.0, 1.0], (8, 8))
    found = search(inputs, [weight])  # every number is on both grids already
    assert found.alpha is None
    assert found.error == found.plain_error < 1e-12
    np.testing.assert_array_equal(found.scales, 1)


def test_the_same_sample_gives_the_same_factors():
    inputs, weights = outlying()
    assert search(inputs, weights).alpha == search(inputs, weights).alpha
    reach = np.abs(inputs).max(0) * 2
    found = search(inputs, weights, input_absmax=reach, alphas=(0.5,))
    np.testing.assert_array_equal(
        found.scales, scales(reach, np.abs(np.concatenate(weights, 1)).max(1), found.alpha or 0.5)
    )


def multiply(model, node, factors):
    weight = weight_of(node)
    dtype = float_type(node)
    name = f"{node.name}.multiplied"
    sides = [-1 if axis == (1 if node.op_type == "Conv" else 0) else 1 for axis in range(weight.ndim)]
    value = add_constant(model.graph, name, (weight * factors.reshape(sides)).astype(dtype))
    replace_input(model.graph, node, 1, value)


@pytest.mark.parametrize("precision", toy.FLOATS)
@pytest.mark.parametrize("names", [ATTENTION, ATTENTION[:2], ["attn.to_out.0"], ["block.conv2"]], ids=" ".join)
def test_float_outputs_stay_the_same(precision, names, tmp_path):
    model, inputs = toy.build(precision), toy.feeds(precision)
    expected, _ = toy.run(model, inputs, tmp_path)
    nodes = layer_nodes(model.graph)
    factors = np.random.default_rng(1).uniform(0.25, 4, toy.CHANNELS).astype(np.float32)
    folded = divide(model.graph, nodes[names[0]].inputs[0], [nodes[name] for name in names], factors)
    for name in names:
        multiply(model, nodes[name], factors)
    got, _ = toy.run(model, inputs, tmp_path)
    np.testing.assert_allclose(got["conv_out"], expected["conv_out"], atol=TOLERANCE[precision])
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    # A LayerNorm takes the division in where all its readers want it; elsewhere it is a node.
    assert folded == (names == ATTENTION)
    assert len([node for node in model.graph if node.name.endswith(".smoothed")]) == (not folded)


def test_folding_takes_the_old_parameters_out():
    model = toy.build("w16")
    nodes = layer_nodes(model.graph)
    before = {name for name in model.graph.initializers if "attn.norm" in name}
    divide(model.graph, nodes["attn.to_q"].inputs[0], [nodes[name] for name in ATTENTION], np.full(16, 2, np.float32))
    assert not before & model.graph.initializers.keys()
    norm = next(node for node in model.graph if node.op_type == "LayerNormalization")
    assert [value.name for value in norm.inputs[1:]] == ["attn.norm.weight", "attn.norm.bias"]
