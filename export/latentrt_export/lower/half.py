"""Conversion of a float32 graph to fp16, with every type written out.

Inputs and outputs keep their types, so that a component's specs hold for every target. Weights stored in half precision
are read without a cast. Engines accumulate norms, softmax and products in float32 for any type of tensors, so those
need no casts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, LiftConstantsToInitializersPass

from latentrt.errors import FidelityError
from latentrt.tensors import Array
from latentrt_export.graph.constants import add_constant, insert_after, name_of, new_node

SINGLE, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
LARGEST_HALF = float(np.finfo(np.float16).max)

# A timestep near 1000 needs more bits than fp16 has: its sinusoid is computed in float32.
FLOAT32_OPERATORS = ("Sin", "Cos")
# Indices of inputs that must be float32 by the standard, by operator: the scales of Resize.
FLOAT32_PLACES = {"Resize": (2,)}
# The first opset whose Q/DQ operators take float16.
QUANTIZED_OPERATORS, QUANTIZED_OPSET = ("QuantizeLinear", "DequantizeLinear"), 19

Use = tuple[ir.Node, int]  # a node, and which of its inputs


def half(model: ir.Model, in_single: Collection[str] = ()) -> ir.Model:
    """`model`, in place, computing in fp16; the types of its inputs and outputs stay.

    in_single: names of nodes that compute in float32. Raises FidelityError for a constant that fp16 cannot hold.
    """
    graph = model.graph
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    drop_stored_casts(graph)
    in_float32 = float32_nodes(graph) | upcast_nodes(graph) | {node for node in graph if node.name in in_single}
    outputs = {value: value.dtype for value in graph.outputs}
    retype_nodes(graph, in_float32)
    retype_constants(graph, in_float32)
    cast_inputs(graph, in_float32)
    cast_between(graph, in_float32)
    cast_outputs(graph, outputs)
    if any(node.op_type in QUANTIZED_OPERATORS for node in graph):
        model.opset_imports[""] = max(model.opset_imports[""], QUANTIZED_OPSET)
    CommonSubexpressionEliminationPass()(model)
    return model


def drop_stored_casts(graph: ir.Graph) -> None:
    """Removes the casts to float32 of weights stored in half precision, and of rows of such tables."""
    for node in list(graph):
        stored = node.inputs[0] if node.op_type == "Cast" else None
        if stored is not None and is_stored(stored) and node.outputs[0].dtype == SINGLE:
            node.outputs[0].replace_all_uses_with(stored)
            graph.remove(node, safe=True)


def is_stored(value: ir.Value) -> bool:
    """Whether a value is a weight, or rows of one that nothing but their cast reads."""
    if value.is_initializer():
        return True
    node = value.producer()
    table = node.inputs[0] if node is not None and node.op_type == "Gather" else None
    return table is not None and table.is_initializer() and len(value.uses()) == 1


def float32_nodes(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that stay float32: the operators that must, and all nodes that they depend on."""
    in_float32: set[ir.Node] = set()
    for node in reversed(graph):
        must = node.op_type in FLOAT32_OPERATORS or any(
            use.node in in_float32 for value in node.outputs for use in value.uses()
        )
        if must and node.outputs[0].dtype == SINGLE:
            in_float32.add(node)
    return in_float32


def upcast_nodes(graph: ir.Graph) -> set[ir.Node]:
    """The float32 nodes of an fp16 graph: those between a cast to float32 and the cast back."""
    found: set[ir.Node] = set()
    for node in graph:
        up = node.op_type == "Cast" and node.inputs[0] is not None and node.inputs[0].dtype == HALF
        follows = any(value is not None and value.producer() in found for value in node.inputs)
        if (up or follows) and node.outputs[0].dtype == SINGLE:
            found.add(node)
    return found


def retype_nodes(graph: ir.Graph, in_float32: set[ir.Node]) -> None:
    """Sets the type of all float32 results to fp16, except those of `in_float32`; adapts casts and fills."""
    for node in graph:
        if node in in_float32:
            continue
        for value in node.outputs:
            if value.dtype == SINGLE:
                value.type = ir.TensorType(HALF)
        if node.op_type == "Cast" and node.attributes["to"].as_int() == SINGLE:
            node.attributes["to"] = ir.AttrInt64("to", HALF.value)
        fill = node.attributes.get("value")
        if node.op_type == "ConstantOfShape" and (fill is None or fill.as_tensor().dtype == SINGLE):
            values = np.zeros(1) if fill is None else fill.as_tensor().numpy()
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(values.astype(np.float16)))


def retype_constants(graph: ir.Graph, in_float32: set[ir.Node]) -> None:
    """Gives every reader of a constant the constant in the reader's type."""
    for value in list(graph.initializers.values()):
        array = value.const_value
        if array is None or array.dtype not in (SINGLE, HALF):
            continue
        wrong = [use for use in value.uses() if wanted(use, in_float32) != array.dtype]
        if not wrong:
            continue
        other = SINGLE if array.dtype == HALF else HALF
        turned = add_constant(graph, f"{name_of(value)}.{other.name.lower()}", converted(value, other))
        for reader, place in wrong:
            reader.replace_input_with(place, turned)
        if not value.uses():
            del graph.initializers[name_of(value)]


def wanted(use: Use, in_float32: set[ir.Node]) -> ir.DataType:
    """The float type of a node's input."""
    node, place = use
    return SINGLE if node in in_float32 or place in FLOAT32_PLACES.get(node.op_type, ()) else HALF


def converted(value: ir.Value, dtype: ir.DataType) -> Array:
    """The constant's array in another float type. Raises FidelityError where it is out of fp16's range.

    Scales of Q/DQ nodes that would round to zero become the smallest fp16 number, to prevent a division by zero.
    """
    assert value.const_value is not None
    array = value.const_value.numpy()
    if dtype == HALF and np.isfinite(array).all() and (largest := float(np.abs(array).max(initial=0))) > LARGEST_HALF:
        raise FidelityError(
            f"{value.name}: got a constant of {largest:g}, expected at most 65504, which is all that fp16 holds; "
            "export with --precision fp32"
        )
    turned: Array = array.astype(dtype.numpy())
    is_scale = any(use.node.op_type in QUANTIZED_OPERATORS and use.idx == 1 for use in value.uses())
    return np.maximum(turned, np.finfo(np.float16).smallest_subnormal) if dtype == HALF and is_scale else turned


def cast_inputs(graph: ir.Graph, in_float32: set[ir.Node]) -> None:
    """Inserts a cast to fp16 between a float32 input of the graph and its fp16 readers."""
    for value in graph.inputs:
        if value.dtype == SINGLE:
            cast(graph, value, HALF, [use for use in value.uses() if wanted(use, in_float32) == HALF])


def cast_between(graph: ir.Graph, in_float32: set[ir.Node]) -> None:
    """Inserts casts where a node reads what one of the other type has made."""
    for node in list(graph):
        for value in node.outputs:
            if node in in_float32 and value.dtype == SINGLE:
                cast(graph, value, HALF, [use for use in value.uses() if use.node not in in_float32])
            elif value.dtype == HALF:
                readers = [use for use in value.uses() if use.node in in_float32 and use.node.op_type != "Cast"]
                cast(graph, value, SINGLE, readers)


def cast_outputs(graph: ir.Graph, types: dict[ir.Value, ir.DataType | None]) -> None:
    """Casts results back to the original types of the graph's outputs, under their original names."""
    for place, value in enumerate(graph.outputs):
        if types[value] == SINGLE and value.dtype == HALF:
            name = name_of(value)
            value.name = f"{name}.half"
            node = new_node("Cast", [value], name, value, to=SINGLE.value)
            node.name, node.outputs[0].type = f"{name}.cast", ir.TensorType(SINGLE)
            graph.append(node)
            graph.outputs[place] = node.outputs[0]


def cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType, uses: Iterable[Use]) -> None:
    """Inserts a cast after the node that computes `value`, and makes `uses` read it."""
    uses = list(uses)
    if not uses:
        return
    node = new_node("Cast", [value], f"{name_of(value)}.{dtype.name.lower()}", value, to=dtype.value)
    node.outputs[0].type = ir.TensorType(dtype)
    insert_after(graph, value, node)
    for reader, place in uses:
        reader.replace_input_with(place, node.outputs[0])
