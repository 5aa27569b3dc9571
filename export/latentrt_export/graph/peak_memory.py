"""Peak memory of a graph's activations: the most elements in memory at once, in the order of its nodes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import onnx_ir as ir

from latentrt_export.graph.constants import initializer_of, name_of

# Operators that an engine fuses with their input, and views.
IN_PASSING = (
    "Cast Transpose Reshape Flatten Squeeze Unsqueeze Slice Split Identity Expand "
    "Sigmoid Erf Tanh Gelu QuantizeLinear DequantizeLinear"
).split()
# Operators that may not overwrite their input.
OUT_OF_PLACE = ("Conv", "MatMul", "Gemm", "Resize", "Concat", "Gather")


def peak_activation_elements(graph: ir.Graph, known: Mapping[str, tuple[int, ...]], fused: Collection[ir.Value]) -> int:
    """Returns the most elements in memory at once, with inputs and without constants.

    A node's output overwrites an input that nothing reads later, unless the node is a layer. known: the shape of every
    value. fused: values that are never in memory.
    """
    homes = homes_of(graph)
    last = {homes[value]: place for place, node in enumerate(graph) for value in node.inputs if value in homes}
    last |= {homes[value]: len(graph) for value in graph.outputs}
    sizes = {home: 0 if home in fused else math.prod(known[name_of(home)]) for home in last}
    live = {value for value in graph.inputs if value in last}
    peak = sum(sizes[home] for home in live)
    for place, node in enumerate(graph):
        made = {homes[value] for value in node.outputs if value in homes} & last.keys() - live
        over = {home for home in live if last[home] == place}
        needed = sum(sizes[home] for home in live | made)
        if node.op_type not in OUT_OF_PLACE:
            needed -= min(sum(sizes[home] for home in over), sum(sizes[home] for home in made))
        peak = max(peak, needed)
        live = (live | made) - over
    return peak


def homes_of(graph: ir.Graph) -> dict[ir.Value, ir.Value]:
    """The value in whose memory each activation lies: itself, or the value that it is a view or fused function of."""
    homes = {value: value for value in graph.inputs}
    for node in graph:
        read = [homes[value] for value in node.inputs if value in homes]
        passing = node.op_type in IN_PASSING or (len(read) == 1 and all_fixed_but_one(node))
        for output in node.outputs:
            if read:
                homes[output] = read[0] if passing and node.op_type not in OUT_OF_PLACE else output
    return homes


def all_fixed_but_one(node: ir.Node) -> bool:
    """True if a node combines one activation with constants, element by element."""
    return node.op_type in ("Add", "Sub", "Mul", "Div", "Pow") and any(
        value is not None and initializer_of(value) is not None for value in node.inputs
    )
