"""Constants of a graph: reading their arrays, adding, replacing and removing them.

A weight may reach its node through a Cast (weights stored in half precision) or a Transpose. Here it counts as one
constant, the array that the node reads.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from latentrt.tensors import Array

VIEWS = ("Cast", "Transpose")


def name_of(value: ir.Value | None) -> str:
    """The value's name, which every value of a graph read from a file has."""
    assert value is not None and value.name is not None
    return value.name


def initializer_of(value: ir.Value | None) -> ir.Value | None:
    """The initialiser that `value` is, directly or through Cast and Transpose; None for a computed value."""
    while value is not None and not value.is_initializer():
        node = value.producer()
        value = node.inputs[0] if node is not None and node.op_type in VIEWS else None
    return value


def shape_of_constant(value: ir.Value) -> tuple[int, ...]:
    """The shape of a constant value, without reading its array."""
    node = value.producer()
    if node is None:
        assert value.const_value is not None
        return tuple(value.const_value.shape.numpy())
    assert node.inputs[0] is not None
    shape = shape_of_constant(node.inputs[0])
    return tuple(shape[axis] for axis in permutation(node, len(shape))) if node.op_type == "Transpose" else shape


def dtype_of_constant(value: ir.Value) -> ir.DataType:
    """The type of a constant value."""
    node = value.producer()
    if node is None:
        assert value.const_value is not None
        return value.const_value.dtype
    assert node.inputs[0] is not None
    return ir.DataType(node.attributes["to"].as_int()) if node.op_type == "Cast" else dtype_of_constant(node.inputs[0])


def array_of(value: ir.Value) -> Array:
    """The array of a constant value; mapped from the file if it needs no conversion."""
    node = value.producer()
    if node is None:
        assert value.const_value is not None
        return value.const_value.numpy()
    assert node.inputs[0] is not None
    array = array_of(node.inputs[0])
    if node.op_type == "Transpose":
        return array.transpose(permutation(node, array.ndim))
    return array.astype(ir.DataType(node.attributes["to"].as_int()).numpy())


def permutation(node: ir.Node, rank: int) -> tuple[int, ...]:
    """The axes of a Transpose; reversed without the attribute."""
    given = node.attributes.get("perm")
    return tuple(given.as_ints()) if given is not None else tuple(reversed(range(rank)))


def cast_to_single(value: ir.Value, name: str, shape: ir.Shape | None) -> ir.Node:
    """A node that casts to float32. name, shape: of its output."""
    cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT.value}, name=f"{value.name}.cast")
    cast.outputs[0].name, cast.outputs[0].shape, cast.outputs[0].dtype = name, shape, ir.DataType.FLOAT
    return cast


def add_constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Returns a new initialiser that holds `array`, which is not copied."""
    tensor = ir.Tensor(np.asarray(array), name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def replace_input(graph: ir.Graph, node: ir.Node, place: int, value: ir.Value | None) -> None:
    """Makes `value` the node's input at index `place`; the previous constant is removed if nothing else reads it."""
    before = node.inputs[place]
    node.replace_input_with(place, value)
    drop_unread(graph, before)


def drop_unread(graph: ir.Graph, value: ir.Value | None) -> None:
    """Removes a constant that nothing reads, with its casts and transposes."""
    while value is not None and initializer_of(value) is not None and not value.uses() and not value.is_graph_output():
        node = value.producer()
        if node is None:
            del graph.initializers[name_of(value)]
            return
        value = node.inputs[0]
        graph.remove(node, safe=True)


def new_node(op_type: str, inputs: list[ir.Value], name: str, like: ir.Value, **attributes: int) -> ir.Node:
    """A node whose one output is called `name` and has the shape and type of `like`."""
    node = ir.node(op_type, inputs, attributes, name=name)
    set_value(node.outputs[0], name, like)
    return node


def set_value(value: ir.Value, name: str, like: ir.Value) -> None:
    """Sets the name of `value`, and the shape and type of `like`."""
    value.name, value.shape = name, like.shape
    # A copy of the type: that of `like` may change later.
    value.type = ir.TensorType(like.dtype) if like.dtype is not None else None


def insert_constant(graph: ir.Graph, node: ir.Node, maker: ir.Node, shape: tuple[int, ...]) -> ir.Value:
    """Inserts `maker`, which computes a constant of that shape, before `node`; returns the constant."""
    maker.outputs[0].shape = ir.Shape(shape)
    graph.insert_before(node, maker)
    return maker.outputs[0]


def insert_after(graph: ir.Graph, value: ir.Value, node: ir.Node) -> None:
    """Inserts `node`, which reads `value`, right after the node that computes `value`, or first for a graph input."""
    producer = value.producer()
    if producer is not None:
        graph.insert_after(producer, node)
    else:
        graph.insert_before(graph[0], node)


def nodes_reading(value: ir.Value) -> Iterator[ir.Node]:
    """The nodes that read `value`, each once."""
    return iter(dict.fromkeys(use.node for use in value.uses()))
