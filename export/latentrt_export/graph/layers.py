"""The layers of a graph that can be quantized: convolutions and matrix products with a fixed weight.

Products of two activations, such as those of attention, are not layers; only `costs.total_macs` counts them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from latentrt_export.graph.constants import (
    array_of,
    dtype_of_constant,
    initializer_of,
    name_of,
    nodes_reading,
    shape_of_constant,
)
from latentrt_export.graph.costs import OPERATORS, Shapes, concrete_shapes, node_macs

# The first and the last convolution process the latents or the picture itself: little work, and most of the error. A
# VAE decoder has two first convolutions.
FLOAT_LAYERS = ("post_quant", "conv_in", "conv_out")
# Suffixes that the exporter adds to a parameter's name: its new shape, and its storage type.
STORED = re.compile(r"(\.\d+(x\d+)+)?(\.fp16)?$")
# Suffixes of a weight stored in 8 or 4 bits: of the name of its integers, and of what they are decoded to.
QUANTIZED, DECODED = ".quantized", ".decoded"


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer.

    name: path of its module. node: name of its node. input, output: names of its activations. weight: name of the
    initializer. macs: multiply-adds at the given shapes. halves: channels of each half if the input is the
    concatenation of two activations over channels, else (). residual: the earlier activation that its output (with
    bias) is added to; "" if there is none.
    """

    name: str
    node: str
    op: str
    input: str
    output: str
    weight: str
    macs: int
    halves: tuple[int, ...]
    residual: str


def layers_of(model: ir.Model, shapes: Shapes) -> tuple[Layer, ...]:
    """Returns the layers in graph order. Nodes without a unique name get one, in place.

    shapes: of every input of the graph; batch 1 gives multiply-adds per image. Raises ShapeError for a missing one.
    """
    nodes = layer_nodes(model.graph)
    known = concrete_shapes(model, shapes)
    order = {node: index for index, node in enumerate(model.graph)}
    return tuple(
        Layer(
            name=name,
            node=str(node.name),
            op=node.op_type,
            input=name_of(node.inputs[0]),
            output=name_of(node.outputs[0]),
            weight=name_of(initializer_of(node.inputs[1])),
            macs=node_macs(node, known),
            halves=halves_of(node, known),
            residual=name_of(use[0].inputs[use[1]]) if (use := residual_use(node, order)) is not None else "",
        )
        for name, node in nodes.items()
    )


def default_float(layers: Sequence[Layer]) -> frozenset[str]:
    """Returns the names of the layers that stay float by rule: the first and the last convolution."""
    return frozenset(layer.name for layer in layers if layer.name.split(".")[-1] in FLOAT_LAYERS)


def layer_nodes(graph: ir.Graph) -> dict[str, ir.Node]:
    """Returns the node of every layer by the layer's name, in graph order. Nodes without a unique name get one."""
    nodes = [node for node in graph if is_layer(node)]
    label_nodes(graph)
    paths = module_paths([name_of(initializer_of(node.inputs[1])) for node in nodes])
    counts: Counter[str] = Counter()
    by_name = {}
    for path, node in zip(paths, nodes, strict=True):
        counts[path] += 1
        by_name[path if counts[path] == 1 else f"{path}.{counts[path]}"] = node
    return by_name


def is_layer(node: ir.Node) -> bool:
    """True if the node multiplies an activation by a fixed weight."""
    if node.domain or node.op_type not in OPERATORS or initializer_of(node.inputs[0]) is not None:
        return False
    weight = node.inputs[1]
    return weight is not None and initializer_of(weight) is not None and len(shape_of_constant(weight)) in (2, 3, 4, 5)


def label_nodes(graph: ir.Graph) -> None:
    """Names the nodes without a unique name after their first output, which is unique."""
    counts = Counter(node.name for node in graph)
    for node in graph:
        if not node.name or counts[node.name] > 1:
            node.name = name_of(node.outputs[0])


def module_paths(weights: Sequence[str]) -> list[str]:
    """The module path of each weight, without the first part if all paths share it."""
    paths = [STORED.sub("", weight).removesuffix(".weight") for weight in weights]
    roots = {path.split(".")[0] for path in paths}
    shared = len(paths) > 1 and len(roots) == 1 and all("." in path for path in paths)
    return [path.split(".", 1)[1] for path in paths] if shared else paths


def weight_of(node: ir.Node) -> NDArray[np.float32]:
    """Returns the layer's weight in its node's layout: (out, in, *kernel), (in, out), or that of a Gemm."""
    assert node.inputs[1] is not None
    return np.ascontiguousarray(array_of(node.inputs[1]), np.float32)


def name_in_bits(graph: ir.Graph, node: ir.Node) -> str:
    """The name under which a layer's weight is stored in 8 or 4 bits: that of the weight, by which LoRA files find it.

    Of several layers with one weight, those after the first are named after their outputs.
    """
    weight = name_of(initializer_of(node.inputs[1]))
    return f"{name_of(node.outputs[0])}.weight" if f"{weight}{QUANTIZED}" in graph.initializers else weight


def float_type(node: ir.Node) -> np.dtype[Any]:
    """The float type of the layer's arithmetic."""
    assert node.inputs[1] is not None
    return dtype_of_constant(node.inputs[1]).numpy()


def output_axis(node: ir.Node) -> int:
    """The weight's axis of output channels."""
    transposed = node.attributes.get_int("transB", 0) if node.op_type == "Gemm" else 0
    return 0 if node.op_type == "Conv" or transposed else 1


def halves_of(node: ir.Node, known: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The channels of the two activations whose concatenation is the convolution's input, else ()."""
    concat = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node.op_type != "Conv" or node.attributes.get_int("group", 1) != 1:
        return ()
    if concat is None or concat.op_type != "Concat" or len(concat.inputs) != 2:
        return ()
    rank = len(known[name_of(concat.outputs[0])])
    if concat.attributes["axis"].as_int() % rank != 1:
        return ()
    return tuple(known[name_of(value)][1] for value in concat.inputs)


def residual_use(node: ir.Node, order: Mapping[ir.Node, int]) -> tuple[ir.Node, int] | None:
    """The Add of the layer's output and another activation of the same shape, and the other's input index.

    order: index of each node in the graph. Only an activation computed before the layer counts: of two layers that are
    added together, the later one has the earlier one as its residual.
    """
    bias = bias_add(node)
    output = bias.outputs[0] if bias is not None else node.outputs[0]
    for reader, index in output.uses():
        other = reader.inputs[1 - index] if reader.op_type == "Add" else None
        if other is None or other is output or initializer_of(other) is not None or not same_shape(other, output):
            continue
        producer = other.producer()
        if producer is None or order[producer] < order[node]:
            return reader, 1 - index
    return None


def same_shape(one: ir.Value, other: ir.Value) -> bool:
    """True if two values that are added have the same shape, without broadcasting."""
    if one.shape is None or other.shape is None or len(one.shape) != len(other.shape):
        return False
    pairs = list(zip(one.shape, other.shape, strict=True))
    return all(a == b or not (isinstance(a, int) or isinstance(b, int)) for a, b in pairs)


def bias_add(node: ir.Node) -> ir.Node | None:
    """The Add of a matrix product's bias: the only reader of the product, with a constant vector as other operand."""
    readers = list(nodes_reading(node.outputs[0]))
    if node.op_type != "MatMul" or len(readers) != 1 or readers[0].op_type != "Add":
        return None
    others = [value for value in readers[0].inputs if value is not node.outputs[0]]
    constant = len(others) == 1 and others[0] is not None and initializer_of(others[0]) is not None
    return readers[0] if constant and others[0] is not None and len(shape_of_constant(others[0])) == 1 else None
