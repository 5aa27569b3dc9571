"""Attention as one ONNX operator, which TensorRT reads from 10.14 on; older versions fuse MatMul, Softmax, MatMul.

ONNX Attention needs opset 23; the graphs' other operators are the same there as in opset 18.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from latentrt_export.graph.constants import name_of, new_node

ATTENTION_OPSET = 23


def as_operator(model: ir.Model) -> int:
    """Replaces every MatMul, Softmax, MatMul by one Attention, in place; returns the number of replacements.

    The query is scaled already, so the operator's scale is 1.
    """
    made = sum(replace(model.graph, node) for node in list(model.graph) if node.op_type == "Softmax")
    if made:
        model.opset_imports[""] = max(model.opset_imports[""], ATTENTION_OPSET)
        RemoveUnusedNodesPass()(model)
    return made


def replace(graph: ir.Graph, softmax: ir.Node) -> bool:
    """Replaces the attention around a Softmax; returns whether there was one."""
    scores, mask = scores_and_mask(softmax)
    products = [use.node for use in softmax.outputs[0].uses()]
    if scores is None or len(products) != 1 or products[0].op_type != "MatMul":
        return False
    query, turned = scores.inputs
    key = turned.producer() if turned is not None else None
    if query is None or key is None or key.op_type != "Transpose":
        return False
    value, output = products[0].inputs[1], products[0].outputs[0]
    assert value is not None and key.inputs[0] is not None
    order = list(key.attributes["perm"].as_ints())
    straight = ir.node("Transpose", [key.inputs[0]], {"perm": [*order[:-2], order[-1], order[-2]]})
    straight.outputs[0].name, straight.outputs[0].type = f"{name_of(turned)}.key", value.type
    attention = new_node("Attention", [query, straight.outputs[0], value], f"{name_of(output)}.attention", output)
    attention.attributes["scale"] = ir.AttrFloat32("scale", 1.0)
    if mask is not None:
        attention.resize_inputs(4)
        attention.replace_input_with(3, mask)
    graph.insert_before(products[0], [straight, attention])
    output.replace_all_uses_with(attention.outputs[0])
    return True


def scores_and_mask(softmax: ir.Node) -> tuple[ir.Node | None, ir.Value | None]:
    """The product before the softmax, and the mask added to it, if there is one."""
    source = softmax.inputs[0]
    node = source.producer() if source is not None else None
    if node is not None and node.op_type == "Add":
        for product, mask in (node.inputs, reversed(node.inputs)):
            made = product.producer() if product is not None else None
            if made is not None and made.op_type == "MatMul":
                return made, mask
    return (node, None) if node is not None and node.op_type == "MatMul" else (None, None)
