"""Graphs with weights in 8 bits behind a DequantizeLinear with a scale per output channel."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from latentrt_export.graph.constants import add_constant, insert_constant, new_node, replace_input
from latentrt_export.graph.eight_bit_weights import quantized
from latentrt_export.graph.layers import (
    DECODED,
    QUANTIZED,
    float_type,
    layer_nodes,
    name_in_bits,
    output_axis,
    weight_of,
)

# The first opset whose Q/DQ operators take float16.
HALF_OPSET = 19


def weight_only(model: ir.Model, names: Iterable[str]) -> None:
    """Stores the weights of the named layers as int8, in place, with a DequantizeLinear before each layer.

    Weights take a quarter of float32's bytes. Arithmetic and activations stay float. `names` may have any order.
    """
    nodes = layer_nodes(model.graph)
    order = {name: place for place, name in enumerate(nodes)}
    chosen = [nodes[name] for name in sorted(names, key=order.__getitem__)]
    raise_opset(model, chosen)
    for node in chosen:
        write_weight(model.graph, node, *quantized(weight_of(node), output_axis(node), scale_dtype=float_type(node)))


def raise_opset(model: ir.Model, nodes: Iterable[ir.Node]) -> None:
    """Raises the opset to the one that quantized fp16 layers need; other operators do not differ in it."""
    if any(float_type(node) == np.float16 for node in nodes):
        model.opset_imports[""] = max(model.opset_imports[""], HALF_OPSET)


def write_weight(graph: ir.Graph, node: ir.Node, values: NDArray[np.int8], scale: NDArray[np.float32]) -> None:
    """Stores the node's weight as int8 behind a DequantizeLinear."""
    before, dtype = node.inputs[1], float_type(node)
    assert before is not None
    name, axis = name_in_bits(graph, node), output_axis(node)
    constants = [
        add_constant(graph, f"{name}{QUANTIZED}", values),
        add_constant(graph, f"{name}.scale", scale.astype(dtype)),
        add_constant(graph, f"{name}.zero", np.zeros(len(scale), np.int8)),
    ]
    maker = new_node("DequantizeLinear", constants, f"{name}{DECODED}", before, axis=axis)
    replace_input(graph, node, 1, insert_constant(graph, node, maker, values.shape))
