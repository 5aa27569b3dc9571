"""A UNet's graph cut in its last up block, for step caching (Ma et al. 2023, DeepCache, arXiv:2312.00858, 3.2).

Every layer of an up block begins with a concatenation of two features: deep ones, of the layer before it, and a skip
from the way down. The whole UNet gives the deep features out. A shallow one takes them in, and so needs only the layers
after the concatenation and those that its skips come from. Both keep the names of all weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from latentrt.bundle.sources import DEEP_FEATURES
from latentrt.errors import RequestError
from latentrt_export.graph.constants import add_constant, name_of, new_node, nodes_reading
from latentrt_export.graph.costs import OPERATORS

CHANNELS = 1


def give_features(model: ir.Model, boundary: int) -> tuple[int | str, ...]:
    """Makes the deep features of the boundary an output of a UNet, in place, after all others; returns their shape.

    boundary: the number of concatenations that the shallow UNet keeps, counted from the end. Raises RequestError for
    one outside the last up block.
    """
    without_features(model)
    found = deep_features(model.graph)
    check_boundary(boundary, len(found))
    deep = found[boundary - 1]
    assert deep.shape is not None
    # Features that were given out before and are quantized since: what is given out now is dequantized.
    for value in values_named(model.graph, DEEP_FEATURES):
        value.name = f"{DEEP_FEATURES}.exact"
    # Nothing is enlarged after them, so their sides are the prediction's.
    batch, _, *sides = axes_of(model.graph.outputs[0])
    deep.name, deep.shape = DEEP_FEATURES, ir.Shape([batch, int(axes_of(deep)[CHANNELS]), *sides])
    model.graph.outputs.append(deep)
    return tuple(axes_of(deep))


def without_features(model: ir.Model) -> ir.Model:
    """The UNet, in place, without deep features among its outputs; their value keeps its name."""
    outputs = model.graph.outputs
    if outputs[-1].name == DEEP_FEATURES:
        outputs.pop()
    return model


def check_boundary(boundary: int, count: int) -> None:
    """Raises RequestError unless the last up block has that boundary. count: of its concatenations with skips."""
    if not 1 <= boundary <= count:
        expected = f"1 to {count}" if count else "a UNet with skips"
        raise RequestError(
            f"step cache: got the boundary {boundary}, expected {expected}; the last up block of this denoiser has "
            f"{count} concatenations with skips"
        )


def make_shallow(model: ir.Model) -> ir.Model:
    """The UNet, in place after `give_features`, with the features as its last input, and without what they need.

    Features that an INT8 graph has quantized are quantized again at the same scale, so that the next layer stays INT8.
    """
    graph = model.graph
    deep = graph.outputs.pop()
    taken = ir.Value(name=DEEP_FEATURES, shape=deep.shape, type=deep.type)
    deep.name = f"{DEEP_FEATURES}.whole"
    if (quantize := quantizer_of(deep)) is not None:
        quantize.replace_input_with(0, taken)
    else:
        deep.replace_all_uses_with(taken)
    graph.inputs.append(taken)
    return without_unread(model)


def take_only(model: ir.Model, channels: Mapping[str, int]) -> ir.Model:
    """A ControlNet, in place, that computes only some outputs, and of each only the first parts; the others are zero.

    channels: the number of channels that are read of each output that is kept, by its name.
    """
    for value in list(model.graph.outputs):
        if (count := channels.get(name_of(value))) is None:
            model.graph.outputs.remove(value)
        else:
            keep_channels(model.graph, value, count)
    return without_unread(model)


def channels_read(model: ir.Model, name: str) -> int:
    """The number of channels at the start of an input after which a graph reads none of it."""
    (value,) = (value for value in model.graph.inputs if value.name == name)
    ends = [slice_end(node) for node in nodes_reading(value)]
    width = int(axes_of(value)[CHANNELS])
    return min(width, max(width if end is None else end for end in ends))


def deep_features(graph: ir.Graph) -> list[ir.Value]:
    """The deep input of each concatenation with a skip in the last up block, the last first."""
    found = []
    for node in reversed(list(behind([graph.outputs[0]], graph))):
        if node.op_type == "Resize":
            break
        if is_skip(node):
            found.append(max(node.inputs, key=lambda value: layers_behind(value, graph)))
    return [value for value in found if value is not None]


def quantizer_of(value: ir.Value) -> ir.Node | None:
    """The node that quantizes what this value is after it is dequantized; None for a value that never was quantized."""
    dequantize = value.producer()
    if dequantize is None or dequantize.op_type != "DequantizeLinear" or dequantize.inputs[0] is None:
        return None
    node = dequantize.inputs[0].producer()
    return node if node is not None and node.op_type == "QuantizeLinear" else None


def is_skip(node: ir.Node) -> bool:
    """Whether a node joins two features along their channels."""
    axis = node.attributes.get_int("axis", 0) if node.op_type == "Concat" else 0
    return axis == CHANNELS and len(node.inputs) == 2 and all(rank_of(value) == 4 for value in node.inputs)


def rank_of(value: ir.Value | None) -> int:
    """The number of axes of a value; 0 if it is unknown."""
    return len(value.shape) if value is not None and value.shape is not None else 0


def values_named(graph: ir.Graph, name: str) -> list[ir.Value]:
    """The values of this name that a graph computes: one, or none."""
    return [value for node in graph for value in node.outputs if value.name == name]


def layers_behind(value: ir.Value | None, graph: ir.Graph) -> int:
    """The number of layers that a value is computed by: more for deep features than for a skip."""
    return sum(node.op_type in OPERATORS for node in behind([value], graph))


def behind(values: Iterable[ir.Value | None], graph: ir.Graph) -> Iterator[ir.Node]:
    """Yields the nodes that the values are computed by, in the graph's order."""
    open_values, seen = list(values), set[ir.Node]()
    while open_values:
        value = open_values.pop()
        node = value.producer() if value is not None else None
        if node is not None and node not in seen:
            seen.add(node)
            open_values += node.inputs
    return (node for node in graph if node in seen)


def without_unread(model: ir.Model) -> ir.Model:
    """The graph, in place, without nodes, weights and inputs that no output needs."""
    RemoveUnusedNodesPass()(model)
    for value in list(model.graph.inputs):
        if not value.uses():
            model.graph.inputs.remove(value)
    return model


def keep_channels(graph: ir.Graph, output: ir.Value, channels: int) -> None:
    """Replaces by zeros all parts of a concatenated output that lie behind its first channels."""
    node = output.producer()
    if node is None or node.op_type != "Concat":
        return
    kept, width = list[ir.Value](), 0
    for value in node.inputs:
        if value is not None and width < channels:
            kept.append(value)
            width += int(axes_of(value)[CHANNELS])
    missing = int(axes_of(output)[CHANNELS]) - width
    if missing:
        name, place = name_of(output), graph.outputs.index(output)
        output.name = f"{name}.unread"
        joined = kept[0]
        if len(kept) > 1:
            concat = new_node("Concat", kept, f"{name}.read", output, axis=CHANNELS)
            graph.insert_before(node, concat)
            joined = concat.outputs[0]
            joined.shape = ir.Shape([*axes_of(output)[:1], width, *axes_of(output)[2:]])
        pads = add_constant(graph, f"{name}.pads", np.array([0] * 5 + [missing, 0, 0], np.int64))
        padded = new_node("Pad", [joined, pads], name, output)
        graph.insert_before(node, padded)
        graph.outputs[place] = padded.outputs[0]


def slice_end(node: ir.Node) -> int | None:
    """The channel at which a Slice ends; None for another node or a computed end."""
    if node.op_type != "Slice" or len(node.inputs) < 4:
        return None
    end, axes = (ir.convenience.get_const_tensor(value) for value in node.inputs[2:4] if value is not None)
    if end is None or axes is None or axes.numpy().tolist() != [CHANNELS]:
        return None
    return int(end.numpy().item())


def axes_of(value: ir.Value) -> list[int | str]:
    """The axes of a value: numbers, or symbols."""
    assert value.shape is not None
    return [axis if isinstance(axis, int) else str(axis.value) for axis in value.shape]
