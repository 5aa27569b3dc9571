"""Graphs with linear layers in 4 bits: weights behind a DequantizeLinear with a scale per block, arithmetic in float.

It is the one form that every engine reads: ONNX Runtime multiplies without unpacking, OpenVINO keeps the weights
compressed, TensorRT-RTX builds it. UINT4, which has zero points, is refused by TensorRT-RTX.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from latentrt.bundle.manifest import Precision
from latentrt_export.graph.constants import (
    VIEWS,
    add_constant,
    cast_to_single,
    insert_constant,
    new_node,
    replace_input,
    shape_of_constant,
)
from latentrt_export.graph.eight_bits import weight_only
from latentrt_export.graph.four_bit_weights import BLOCK, BlockWeight, in_blocks
from latentrt_export.graph.layers import (
    DECODED,
    QUANTIZED,
    Layer,
    float_type,
    layer_nodes,
    name_in_bits,
    weight_of,
)

# The first opset with 4-bit integers and scales per block. The other operators of the graphs do not differ in it.
OPSET = 21


def four_bit_layers(model: ir.Model, layers: Iterable[Layer], block: int = BLOCK) -> tuple[Layer, ...]:
    """Returns the layers that may have 4 bits: matrix products whose input channels are whole blocks.

    Not the first layers after the graph's inputs and the last ones before its outputs: projections of latents, texts
    and times have few weights and the widest range of values.
    """
    names = inner_products(model.graph, layer_nodes(model.graph), block)
    return tuple(layer for layer in layers if layer.name in names)


def inner_products(graph: ir.Graph, nodes: Mapping[str, ir.Node], block: int = BLOCK) -> frozenset[str]:
    """The names of these layers, for code that has no multiply-adds of them. nodes: all layers by name."""
    ends = end_layers(graph, nodes)
    return frozenset(name for name, node in nodes.items() if name not in ends and in_whole_blocks(node, block))


def in_whole_blocks(node: ir.Node, block: int) -> bool:
    """Whether a layer is a product with a matrix whose rows are whole blocks."""
    weight = node.inputs[1]
    assert weight is not None
    shape = shape_of_constant(weight)
    return node.op_type == "MatMul" and len(shape) == 2 and shape[0] % block == 0


def end_layers(graph: ir.Graph, nodes: Mapping[str, ir.Node]) -> frozenset[str]:
    """Returns the names of the layers that no other layer comes before, or none after. nodes: all layers by name."""
    layers, after, before = set(nodes.values()), set[ir.Node](), set[ir.Node]()
    for node in graph:
        makers = [value.producer() for value in node.inputs if value is not None]
        if any(maker in layers or maker in after for maker in makers):
            after.add(node)
    for node in reversed(graph):
        readers = [use.node for value in node.outputs for use in value.uses()]
        if any(reader in layers or reader in before for reader in readers):
            before.add(node)
    return frozenset(name for name, node in nodes.items() if node not in after or node not in before)


def scale_type(node: ir.Node) -> np.dtype[np.floating]:
    """The type in which a layer's scales are stored: that of its weight, whose multiples they are."""
    value = node.inputs[1]
    while value is not None and (maker := value.producer()) is not None and maker.op_type in VIEWS:
        value = maker.inputs[0]
    assert value is not None and value.const_value is not None
    return value.const_value.dtype.numpy()


def eight_bit_bytes(model: ir.Model, precision: Precision) -> int:
    """The bytes of weights in 8 bits in a graph whose others have 4, which is one of the precision w4; else 0."""
    if precision != "w4":
        return 0
    tensors = (value.const_value for value in model.graph.initializers.values() if value.dtype == ir.DataType.INT8)
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def to_four_bits(model: ir.Model) -> ir.Model:
    """The graph, in place, with the layers that may have 4 bits rounded to the nearest, and others in 8 bits.

    The first and the last layers keep the type that they are stored in.
    """
    nodes = layer_nodes(model.graph)
    small, ends = inner_products(model.graph, nodes), end_layers(model.graph, nodes)
    weight_only(model, [name for name in nodes if name not in small | ends])
    raise_opset(model)
    for name, node in nodes.items():
        if name in small:
            write_weight(model.graph, node, in_blocks(weight_of(node), scale_dtype=scale_type(node)))
    return model


def raise_opset(model: ir.Model) -> None:
    """Raises the graph's opset to the first one that has 4 bits."""
    model.opset_imports[""] = max(model.opset_imports[""], OPSET)


def write_blocks(model: ir.Model, weights: Mapping[str, BlockWeight]) -> None:
    """Stores the weights of the named layers in 4 bits, in place. Raises KeyError for a layer that is not there."""
    nodes = layer_nodes(model.graph)
    if weights:
        raise_opset(model)
    for name, weight in weights.items():
        write_weight(model.graph, nodes[name], weight)


def write_weight(graph: ir.Graph, node: ir.Node, weight: BlockWeight) -> None:
    """Stores the node's weight in 4 bits behind a DequantizeLinear; scales in half precision behind a Cast."""
    before, stored = node.inputs[1], scale_type(node)
    assert before is not None
    name = name_in_bits(graph, node)
    values = add_constant(graph, f"{name}{QUANTIZED}", weight.values.astype(ir.DataType.INT4.numpy()))
    scales = add_constant(graph, f"{name}.scale", weight.scales.astype(stored))
    if stored != float_type(node):
        cast = cast_to_single(scales, f"{name}.scale.fp32", scales.shape)
        scales = insert_constant(graph, node, cast, weight.scales.shape)
    axes = {"axis": 0, "block_size": weight.block}
    maker = new_node("DequantizeLinear", [values, scales], f"{name}{DECODED}", before, **axes)
    replace_input(graph, node, 1, insert_constant(graph, node, maker, weight.values.shape))
