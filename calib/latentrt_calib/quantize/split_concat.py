"""Convolutions of a concatenation split in two, so that each half of the input has its own scale.

In a UNet's up blocks, one half comes from the previous block and one from the skip connection. Their ranges differ, and
with one scale the narrow half loses bits (Li et al. 2023, Q-Diffusion, arXiv:2302.04304, section 3.3). Exact in float,
up to the order of the sum.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from latentrt_export.graph.constants import (
    add_constant,
    dtype_of_constant,
    initializer_of,
    insert_constant,
    name_of,
    new_node,
    replace_input,
    set_value,
    shape_of_constant,
)
from latentrt_export.graph.layers import STORED, Layer, layer_nodes

HALVES = ("first", "second")


def split_concatenations(model: ir.Model, layers: Iterable[Layer]) -> tuple[str, ...]:
    """Splits the layers, in place; returns the names of their halves, `NAME.first` and `NAME.second`.

    layers: layers of this graph from `layers_of`; those without halves stay unchanged. The halves' weights are views
    of the mapped weights, not copies.
    """
    nodes, names = layer_nodes(model.graph), []
    for layer in layers:
        if layer.halves:
            split_node(model.graph, nodes[layer.name], layer.halves)
            names += [f"{layer.name}.{half}" for half in HALVES]
    return tuple(names)


def split_node(graph: ir.Graph, node: ir.Node, channels: tuple[int, ...]) -> None:
    """Replaces a convolution by two convolutions and a sum; the first has the bias."""
    output = node.outputs[0]
    concat = node.inputs[0].producer() if node.inputs[0] is not None else None
    assert concat is not None
    convs: list[ir.Node] = []
    start = 0
    for half, activation, count in zip(HALVES, concat.inputs, channels, strict=True):
        weight = weight_part(graph, node, half, slice(start, start + count))
        inputs = [activation, weight, *(node.inputs[2:] if not convs else [])]
        conv = ir.node("Conv", inputs, dict(node.attributes), name=f"{node.name}.{half}")
        set_value(conv.outputs[0], f"{name_of(output)}.{half}", output)
        convs.append(conv)
        start += count
    total = new_node("Add", [conv.outputs[0] for conv in convs], f"{name_of(output)}.sum", output)
    graph.insert_before(node, [*convs, total])
    output.replace_all_uses_with(total.outputs[0], replace_graph_outputs=True)
    for index in range(len(node.inputs)):
        replace_input(graph, node, index, None)
    graph.remove(node, safe=True)
    total.outputs[0].name = name_of(output)
    if not concat.outputs[0].uses() and not concat.outputs[0].is_graph_output():
        graph.remove(concat, safe=True)


def weight_part(graph: ir.Graph, node: ir.Node, half: str, channels: slice) -> ir.Value:
    """The weight's input channels `channels`, stored and cast in the whole weight's types."""
    weight, stored = node.inputs[1], initializer_of(node.inputs[1])
    assert weight is not None and stored is not None and stored.const_value is not None
    suffix = STORED.search(name_of(stored))
    assert suffix is not None
    name = f"{STORED.sub('', name_of(stored)).removesuffix('.weight')}.{half}.weight"
    part = add_constant(graph, f"{name}{suffix[0]}", stored.const_value.numpy()[:, channels])
    if stored is weight:
        return part
    cast = new_node("Cast", [part], f"{name}.cast", weight, to=dtype_of_constant(weight).value)
    return insert_constant(graph, node, cast, shape_of_constant(part))
