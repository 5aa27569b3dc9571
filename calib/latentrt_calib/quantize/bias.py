"""The bias of a quantized layer: corrected, and stored as int32 where the engine adds it to int32 sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from latentrt.tensors import Array
from latentrt_calib.quantize.plan import LayerPlan
from latentrt_export.graph.constants import add_constant, array_of, insert_constant, name_of, new_node, replace_input
from latentrt_export.graph.eight_bit_weights import dequantized
from latentrt_export.graph.layers import bias_add, float_type, output_axis

# A bias must stay below this many steps, or the sum that begins with it may overflow int32.
LARGEST_STEPS = 1 << 30


def write_bias(graph: ir.Graph, node: ir.Node, plan: LayerPlan, *, integer: bool) -> LayerPlan:
    """Adds the correction to the layer's bias, in place; returns the plan, with weights rescaled if the bias needs it.

    integer: store a float32 bias as int32, in steps of input scale times weight scale.
    """
    if node.op_type == "MatMul":
        if plan.bias_delta is not None:
            correct_product(graph, node, plan.bias_delta)
        return plan
    bias = corrected(node, plan)
    if bias is not None and integer and float_type(node) == np.float32:
        plan = with_room(node, plan, bias)
        write_steps(graph, node, bias, np.float32(plan.input.scale) * plan.weight_scale)
    elif bias is not None and plan.bias_delta is not None:
        name = f"{name_of(node.outputs[0])}.bias"
        put(graph, node, add_constant(graph, name, bias.astype(float_type(node))))
    return plan


def corrected(node: ir.Node, plan: LayerPlan) -> NDArray[np.float32] | None:
    """The bias of a Conv or Gemm with the correction added; None if there is neither."""
    old = node.inputs[2] if len(node.inputs) > 2 else None
    if old is None:
        return plan.bias_delta
    bias = array_of(old).astype(np.float32)
    return bias if plan.bias_delta is None else bias + plan.bias_delta


def with_room(node: ir.Node, plan: LayerPlan, bias: NDArray[np.float32]) -> LayerPlan:
    """The plan with larger weight scales for channels whose bias would have too many steps."""
    least = np.abs(bias) / (plan.input.scale * LARGEST_STEPS)
    wider = np.maximum(plan.weight_scale, least).astype(np.float32)
    sides = [-1 if axis == output_axis(node) else 1 for axis in range(plan.weight.ndim)]
    values = np.rint(plan.weight * (plan.weight_scale / wider).reshape(sides)).astype(np.int8)
    return replace(plan, weight=values, weight_scale=wider)


def write_steps(graph: ir.Graph, node: ir.Node, bias: NDArray[np.float32], step: NDArray[np.float32]) -> None:
    """Stores the bias as int32, exact to half a step, behind a DequantizeLinear."""
    name = f"{name_of(node.outputs[0])}.bias"
    constants = [
        add_constant(graph, f"{name}.quantized", np.rint(bias / step).astype(np.int32)),
        add_constant(graph, f"{name}.scale", step),
        add_constant(graph, f"{name}.zero", np.zeros(len(step), np.int32)),
    ]
    maker = new_node("DequantizeLinear", constants, name, node.outputs[0], axis=0)
    put(graph, node, insert_constant(graph, node, maker, bias.shape))


def put(graph: ir.Graph, node: ir.Node, bias: ir.Value) -> None:
    """Makes `bias` the bias input of a Conv or Gemm."""
    if len(node.inputs) == 2:
        node.resize_inputs(3)
    replace_input(graph, node, 2, bias)


def correct_product(graph: ir.Graph, node: ir.Node, delta: NDArray[np.float32]) -> None:
    """Adds the correction to the bias that follows a MatMul, or adds a bias there."""
    dtype, addition, output = float_type(node), bias_add(node), node.outputs[0]
    name = f"{name_of(output)}.bias"
    if addition is None:
        addition = new_node("Add", [output, add_constant(graph, name, delta.astype(dtype))], f"{name}ed", output)
        for reader, index in [use for use in output.uses() if use.node is not addition]:
            reader.replace_input_with(index, addition.outputs[0])
        graph.insert_after(node, addition)
        return
    [index] = [index for index, value in enumerate(addition.inputs) if value is not output]
    before = addition.inputs[index]
    assert before is not None
    bias = array_of(before).astype(np.float32) + delta
    replace_input(graph, addition, index, add_constant(graph, name, bias.astype(dtype)))


def bias_correction(
    weight: Array, values: NDArray[np.int8], scale: NDArray[np.float32], input_mean: Array, axis: int = 0
) -> NDArray[np.float32]:
    """Returns the bias correction E[(W - Wq) x], (out,): with it, rounding the weight keeps the mean output.

    weight: (out, in / groups, *kernel) with axis 0, or (in, out) with axis 1; the smoothed weight of a smoothed layer.
    input_mean: (in,), mean of the layer's input per channel, used for all taps of a kernel, which ignores the padding.
    Nagel et al. 2019, arXiv:1906.04721, section 4.2.
    """
    error = np.moveaxis(weight - dequantized(values, scale, axis), axis, 0)
    error = error.reshape(*error.shape[:2], -1).sum(2)
    means = np.asarray(input_mean, np.float32).reshape(-1, error.shape[1])  # (groups, in / groups)
    grouped = error.reshape(len(means), -1, error.shape[1])
    delta: NDArray[np.float32] = np.einsum("goi,gi->go", grouped, means).reshape(-1).astype(np.float32)
    return delta
