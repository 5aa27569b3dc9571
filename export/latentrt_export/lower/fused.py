"""Attention as ONNX Runtime's fused CPU operator, which never stores all scores at once.

At the widest level of Stable Diffusion 1.5 at 512x512, it takes 0.82 of the time and 1 GB less. MultiHeadAttention of
`com.microsoft` reads the projections' outputs directly, so their transposes are removed as well.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from latentrt.tensors import Array
from latentrt_export.graph.constants import name_of, new_node
from latentrt_export.lower.attention import scores_and_mask

DOMAIN = "com.microsoft"


def as_fused(model: ir.Model) -> int:
    """Replaces every attention without a mask by one MultiHeadAttention, in place; returns the number."""
    made = sum(replace(model.graph, node) for node in list(model.graph) if node.op_type == "Softmax")
    if made:
        model.opset_imports[DOMAIN] = 1
        RemoveUnusedNodesPass()(model)
    return made


def replace(graph: ir.Graph, softmax: ir.Node) -> bool:
    """Replaces the attention around a Softmax; returns whether it has the expected form."""
    scores, mask = scores_and_mask(softmax)
    product = only_reader(softmax.outputs[0], "MatMul")
    merged = only_reader(product.outputs[0], "Transpose") if product is not None else None
    output = only_reader(merged.outputs[0], "Reshape") if merged is not None else None
    if scores is None or mask is not None or product is None or output is None:
        return False
    query, scale = scaled(scores.inputs[0])
    sources = [split_heads(value) for value in (query, scores.inputs[1], product.inputs[1])]
    heads = {found[1] for found in sources if found is not None}
    if None in sources or len(heads) != 1:
        return False
    made = output.outputs[0]
    inputs = [found[0] for found in sources if found is not None]
    attention = new_node("MultiHeadAttention", inputs, f"{name_of(made)}.attention", made, num_heads=heads.pop())
    attention.domain = DOMAIN
    attention.attributes["scale"] = ir.AttrFloat32("scale", scale)
    graph.insert_before(output, attention)
    made.replace_all_uses_with(attention.outputs[0])
    return True


def only_reader(value: ir.Value, op_type: str) -> ir.Node | None:
    """The one node that reads `value`, if it is an `op_type`."""
    readers = [use.node for use in value.uses()]
    return readers[0] if len(readers) == 1 and readers[0].op_type == op_type else None


def scaled(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """The value before its multiplication by a number, and that number; `value` and 1 without one."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Mul":
        return value, 1.0
    factor = number(node.inputs[1])
    return (node.inputs[0], float(factor.item())) if factor is not None and factor.size == 1 else (value, 1.0)


def split_heads(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """The tensor (batch, length, width) that was split into heads to get `value`, and the number of heads."""
    turned = value.producer() if value is not None else None
    split = turned.inputs[0] if turned is not None and turned.op_type == "Transpose" else None
    reshape = split.producer() if split is not None else None
    if reshape is None or reshape.op_type != "Reshape" or reshape.inputs[0] is None:
        return None
    shape = number(reshape.inputs[1])
    return (reshape.inputs[0], int(shape[2])) if shape is not None and len(shape) == 4 else None


def number(value: ir.Value | None) -> Array | None:
    """The array of a constant; None for a computed value."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return tensor.numpy() if tensor is not None else None
