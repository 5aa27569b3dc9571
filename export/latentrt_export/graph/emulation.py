"""Emulation of fp16 on a CPU, by casts that are written into the graph.

ONNX Runtime has no fp16 kernels for a CPU: it casts to float32 around each operator, then drops the casts that cancel
out, so that a graph in fp16 gives float32 results. Casts that are written in the graph stay.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
from onnxruntime import InferenceSession

from latentrt_export.graph.constants import name_of, new_node
from latentrt_export.graph.session import low_memory_session

SINGLE, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def emulated_session(graph: Path) -> InferenceSession:
    """A session of a graph's file whose fp16 operators round to fp16; weights stay in their file."""
    model = emulated(ir.load(graph))
    return low_memory_session(ir.to_proto(model).SerializeToString(), weights=graph.parent, as_written=True)


def emulated(model: ir.Model) -> ir.Model:
    """`model`, in place, with every fp16 operator as float32 arithmetic on fp16 tensors, each result rounded once.

    Tensor cores do the same: fp16 in, float32 sums, fp16 out. A result beyond 65504 becomes infinite.
    """
    graph = model.graph
    raised: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if node.op_type == "Cast":
            continue
        for place, value in enumerate(node.inputs):
            if value is not None and value.dtype == HALF:
                node.replace_input_with(place, raised.get(value) or raise_to_single(graph, node, value, raised))
        for value in node.outputs:
            if value.dtype == HALF:
                round_to_half(graph, node, value)
    return model


def raise_to_single(graph: ir.Graph, node: ir.Node, value: ir.Value, raised: dict[ir.Value, ir.Value]) -> ir.Value:
    """`value` in float32, cast before its first reader, `node`."""
    cast = new_cast(value, SINGLE)
    graph.insert_before(node, cast)
    raised[value] = cast.outputs[0]
    return cast.outputs[0]


def round_to_half(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Rounds the node's result, now float32, to fp16 for all its readers."""
    value.type = ir.TensorType(SINGLE)
    name, cast = name_of(value), new_cast(value, HALF)
    rounded = cast.outputs[0]
    value.replace_all_uses_with(rounded, replace_graph_outputs=True)
    cast.replace_input_with(0, value)
    value.name, rounded.name = f"{name}.unrounded", name  # an output keeps its name
    graph.insert_after(node, cast)


def new_cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    """A Cast of `value`."""
    node = new_node("Cast", [value], f"{name_of(value)}.{dtype.name.lower()}", value, to=dtype.value)
    node.outputs[0].type = ir.TensorType(dtype)
    return node
