"""The canonical graph: the traced graph in the few forms that every engine reads and fuses.

Opset 18 and IR 10, weights as plain initialisers, shape arithmetic folded into the reshapes. No computed value changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)
from onnx_ir.tensor_adapters import TorchTensor
from onnxscript.optimizer import fold_constants

from latentrt_export.graph.shapes import annotate_shapes

OPSET = 18
IR_VERSION = 10


def canonical(model: ir.Model, weights: Mapping[str, torch.Tensor], multiple: int = 1) -> ir.Model:
    """`model`, in place: `weights` bound to inputs by name, shapes and constants folded, unused nodes removed.

    The tensors are shared with `weights`, not copied; transposed ones are views. multiple: of which height and width
    must be multiples.
    """
    tidy = Sequential(IdentityEliminationPass(), CommonSubexpressionEliminationPass(), RemoveUnusedNodesPass())
    fold_constants(model, onnx_shape_inference=False)
    tidy(model)
    fold(model.graph, {"Reshape": fold_reshape, "Div": drop_division_by_one})
    annotate_shapes(tidy(model).model, multiple)
    bind(model.graph, weights)
    fold(model.graph, dict.fromkeys(VIEWS, fold_weight_view))
    Sequential(RemoveUnusedNodesPass(), RemoveUnusedOpsetsPass())(model)
    return strip(model)


def fold(graph: ir.Graph, rules: Mapping[str, Callable[[ir.Graph, ir.Node], None]]) -> None:
    """Applies to every node the rule for its operator, if there is one."""
    for node in list(graph):
        if node.op_type in rules:
            rules[node.op_type](graph, node)


def bind(graph: ir.Graph, weights: Mapping[str, torch.Tensor]) -> None:
    """Turns the graph inputs that are named like a weight into initialisers."""
    for value in list(graph.inputs):
        if (weight := weights.get(name_of(value))) is not None:
            graph.inputs.remove(value)
            set_weight(graph, value, weight)


def set_weight(graph: ir.Graph, value: ir.Value, tensor: torch.Tensor) -> None:
    """Makes `value` an initialiser that shares the memory of `tensor`."""
    constant = TorchTensor(tensor, name=value.name)
    value.const_value, value.shape, value.dtype = constant, ir.Shape(tensor.shape), constant.dtype
    graph.register_initializer(value)


def name_of(value: ir.Value) -> str:
    """The value's name, which every value of a traced graph has."""
    assert value.name is not None
    return value.name


def constant_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The constant of `value`, if it is one."""
    return ir.convenience.get_const_tensor(value) if value is not None else None


def fold_weight_view(graph: ir.Graph, node: ir.Node) -> None:
    """Replaces a Transpose or Unsqueeze of a weight, or of its Cast, by a transposed or unsqueezed initialiser."""
    weight = node.inputs[0]
    stored, *_ = operands(weight, "Cast")
    if weight is not None and stored is not None and isinstance(stored.const_value, TorchTensor):
        turn_before_cast(graph, node, weight, stored)
        return
    if weight is None or not isinstance(weight.const_value, TorchTensor):
        return
    tensor = VIEWS[node.op_type](weight.const_value.raw, node)
    value = ir.Value(name=f"{weight.name}.{'x'.join(map(str, tensor.shape))}")
    if (known := graph.initializers.get(name_of(value))) is not None:
        value = known
    else:
        set_weight(graph, value, tensor)
    node.outputs[0].replace_all_uses_with(value)
    graph.remove(node, safe=True)
    if not weight.uses():
        del graph.initializers[name_of(weight)]


def turn_before_cast(graph: ir.Graph, node: ir.Node, weight: ir.Value, stored: ir.Value) -> None:
    """Replaces the turned Cast of a weight by the Cast of the turned weight. weight: the Cast's output."""
    after, cast = node.outputs[0], weight.producer()
    assert cast is not None
    turned = ir.Node("", node.op_type, [stored, *node.inputs[1:]], node.attributes.values(), name=f"{node.name}.stored")
    again = ir.Node("", "Cast", turned.outputs, cast.attributes.values(), name=node.name)
    turned.outputs[0].name = f"{name_of(after)}.stored"
    made = again.outputs[0]
    made.name, made.shape, made.type = f"{name_of(after)}.cast", after.shape, after.type
    graph.insert_before(node, [turned, again])
    after.replace_all_uses_with(made)
    graph.remove(node, safe=True)
    fold_weight_view(graph, turned)


def transposed(weight: torch.Tensor, node: ir.Node) -> torch.Tensor:
    """The weight as a Transpose node turns it."""
    return weight.permute(*node.attributes["perm"].as_ints())


def unsqueezed(weight: torch.Tensor, node: ir.Node) -> torch.Tensor:
    """The weight as an Unsqueeze node with constant axes shapes it."""
    axes = constant_of(node.inputs[1])
    assert axes is not None
    for axis in axes.numpy().tolist():
        weight = weight.unsqueeze(axis)
    return weight


VIEWS = {"Transpose": transposed, "Unsqueeze": unsqueezed}


def drop_division_by_one(graph: ir.Graph, node: ir.Node) -> None:
    """Removes x / 1, which diffusers writes after every ResNet and attention."""
    dividend, divisor = node.inputs[0], constant_of(node.inputs[1])
    if dividend is not None and divisor is not None and divisor.size == 1 and divisor.numpy().item() == 1:
        node.outputs[0].replace_all_uses_with(dividend)
        graph.remove(node, safe=True)


def fold_reshape(graph: ir.Graph, node: ir.Node) -> None:
    """Writes the target shape of a Reshape as a constant: 0 for a kept axis, -1 for the inferred one.

    The tracer writes a shape as a Concat of Gather(Shape(x)): several nodes per reshape that prevent fusions.
    """
    source, shape = node.inputs
    concat = shape.producer() if shape is not None else None
    if concat is None or concat.op_type != "Concat":
        return
    sides = [side(part, place, source) for place, part in enumerate(concat.inputs)]
    if sides.count(None) + sides.count(-1) > 1:
        return
    target = np.array([-1 if s is None else s for s in sides], np.int64)
    name = f"{node.outputs[0].name}.shape"
    value = ir.Value(name=name, const_value=ir.tensor(target, name=name))
    graph.register_initializer(value)
    node.replace_input_with(1, value)


def side(part: ir.Value | None, place: int, source: ir.Value | None) -> int | None:
    """One axis of a Reshape's target: its constant, 0 for the source's size, None for a computed size."""
    constant = constant_of(part)
    if constant is not None:
        return int(constant.numpy().item()) if constant.size == 1 else None
    gathered, *_ = operands(part, "Unsqueeze")
    shape, index, *_ = operands(gathered, "Gather")
    shaped, *_ = operands(shape, "Shape")
    place_read = constant_of(index)
    # The batch comes first in every tensor of these graphs, so its size may be read off any of them.
    same = shaped is not None and (shaped is source or place == 0)
    return 0 if same and place_read is not None and place_read.numpy().item() == place else None


def operands(value: ir.Value | None, op_type: str) -> Sequence[ir.Value | None]:
    """The inputs of the `op_type` node that computes `value`; (None, None) for another node."""
    node = value.producer() if value is not None else None
    return node.inputs if node is not None and node.op_type == op_type else (None, None)


def strip(model: ir.Model) -> ir.Model:
    """`model` without doc strings, traces and the producer's version, which differ from run to run."""
    model.ir_version, model.producer_name, model.producer_version = IR_VERSION, "latentrt", None
    model.doc_string = model.graph.doc_string = None
    model.graph.name = "latentrt"
    for node in model.graph:
        node.doc_string = None
        node.metadata_props.clear()
    return model
