"""Q/DQ nodes: QuantizeLinear and DequantizeLinear mark a graph's layers that compute in 8 bits, with their scales.

Their placement is a row of `plan.TARGETS`. An activation has one pair of nodes per scale, shared by all its readers;
weights are int8 in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from latentrt_calib.quantize.bias import write_bias
from latentrt_calib.quantize.plan import TARGETS, LayerPlan, Scale
from latentrt_calib.quantize.ranges import Scheme
from latentrt_calib.quantize.smooth import divide
from latentrt_export.graph.constants import (
    add_constant,
    insert_after,
    name_of,
    new_node,
)
from latentrt_export.graph.eight_bits import raise_opset, write_weight
from latentrt_export.graph.layers import float_type, layer_nodes, residual_use

QUANTIZED_OPERATORS = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "MatMulNBits",
)


class QdqPairs:
    """The pairs of Q and DQ nodes written so far, one per tensor and scale."""

    def __init__(self, graph: ir.Graph, scheme: Scheme) -> None:
        self.graph, self.scheme = graph, scheme
        self.pairs: dict[tuple[ir.Value, Scale], ir.Value] = {}
        self.counts: dict[ir.Value, int] = {}

    def of(self, value: ir.Value, scale: Scale, dtype: np.dtype[Any]) -> ir.Value:
        """`value` quantized at `scale` and dequantized; the nodes are written if they are missing."""
        if (value, scale) not in self.pairs:
            dequantized = self.write(value, scale, dtype)
            # A dequantized value can be quantized at the same scale without another pair.
            self.pairs[value, scale] = self.pairs[dequantized, scale] = dequantized
        return self.pairs[value, scale]

    def write(self, value: ir.Value, scale: Scale, dtype: np.dtype[Any]) -> ir.Value:
        """Inserts the two nodes after the node that computes `value`; returns the dequantized value."""
        count = self.counts[value] = self.counts.get(value, 0) + 1
        name = name_of(value) if count == 1 else f"{name_of(value)}.{count}"
        step = add_constant(self.graph, f"{name}.scale", np.array(scale.scale, dtype))
        zero = add_constant(self.graph, f"{name}.zero", np.array(scale.zero, self.scheme.dtype))
        quantize = new_node("QuantizeLinear", [value, step, zero], f"{name}.quantized", value)
        quantize.outputs[0].type = zero.type
        dequantize = new_node("DequantizeLinear", [quantize.outputs[0], step, zero], f"{name}.dequantized", value)
        insert_after(self.graph, value, quantize)
        self.graph.insert_after(quantize, dequantize)
        return dequantize.outputs[0]


def is_quantized(model: ir.Model) -> bool:
    """Returns True if any part of the graph is in 8 bits or less already, even if only weights are."""
    return any(node.op_type in QUANTIZED_OPERATORS for node in model.graph)


def write_qdq(model: ir.Model, plans: Mapping[str, LayerPlan], target: str) -> None:
    """Quantizes the layers that have a plan, in place, and removes their float weights from the graph.

    plans: by the layer's name. target: a key of `plan.TARGETS`. Layers without a plan stay unchanged. Raises KeyError
    for a plan of a layer that the graph does not have.
    """
    graph, rules = model.graph, TARGETS[target]
    found, order = layer_nodes(graph), {node: index for index, node in enumerate(graph)}
    if absent := plans.keys() - found.keys():
        raise KeyError(f"no such layers in the graph: {', '.join(sorted(absent))}")
    nodes = {name: node for name, node in found.items() if name in plans}
    types = {name: float_type(node) for name, node in nodes.items()}
    residuals = {name: residual_use(node, order) for name, node in nodes.items()} if rules.residuals else {}
    raise_opset(model, nodes.values())
    smooth(graph, nodes, plans)
    pairs = QdqPairs(graph, rules.activations)
    for name, node in nodes.items():
        plan = write_bias(graph, node, plans[name], integer=node.op_type in rules.integer_bias)
        write_weight(graph, node, plan.weight, plan.weight_scale)
        if node.op_type in rules.outputs and plan.output is not None:
            write_output(node, pairs, plan.output, types[name])
        if (use := residuals.get(name)) is not None and plan.residual is not None:
            write_input(*use, pairs, plan.residual, types[name])
    # Last, so that a layer reads the quantized output of the layer before it.
    for name, node in nodes.items():
        write_input(node, 0, pairs, plans[name].input, types[name])


def smooth(graph: ir.Graph, nodes: Mapping[str, ir.Node], plans: Mapping[str, LayerPlan]) -> None:
    """Divides the inputs of smoothed layers, once for all layers with the same input and factors."""
    groups: dict[tuple[ir.Value | None, bytes], list[str]] = {}
    for name, node in nodes.items():
        factors = plans[name].smooth
        if factors is not None:
            groups.setdefault((node.inputs[0], factors.tobytes()), []).append(name)
    for (value, _), names in groups.items():
        factors = plans[names[0]].smooth
        assert value is not None and factors is not None
        divide(graph, value, [nodes[name] for name in names], factors)


def write_input(node: ir.Node, index: int, pairs: QdqPairs, scale: Scale, dtype: np.dtype[Any]) -> None:
    """Quantizes the node's input at `index`."""
    value = node.inputs[index]
    assert value is not None
    node.replace_input_with(index, pairs.of(value, scale, dtype))


def write_output(node: ir.Node, pairs: QdqPairs, scale: Scale, dtype: np.dtype[Any]) -> None:
    """Quantizes the layer's output for all its readers; an output of the graph stays float."""
    value = node.outputs[0]
    readers = list(value.uses())
    dequantized = pairs.of(value, scale, dtype)
    for reader, index in readers:
        reader.replace_input_with(index, dequantized)
