"""A decoder computed in stripes of rows, so that memory holds little more than a layer's input and output.

Only the final picture is whole: each layer reads the stripes of the previous one, with one row of the neighbours where
a kernel needs it. Group norms use the mean and variance over all stripes, so pictures are the same up to rounding. Each
upsampling doubles the number of stripes: every stripe has the height of the latents, at least 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass
from onnx_ir.tape import Tape

from latentrt_export.graph.constants import nodes_reading
from latentrt_export.lower.fused import number, only_reader

ROWS = 2  # the axis of rows
END = np.iinfo(np.int64).max
# Rows of a neighbour that a kernel of that shape, with those pads, needs.
REACHES: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {((1, 1), (0,) * 4): 0, ((3, 3), (1,) * 4): 1}
POINTWISE = ("Add", "Mul", "Sigmoid", "Cast", "QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Norm:
    """A group norm: its input, and the factor and offset of each channel."""

    source: ir.Value
    scale: ir.Value
    shift: ir.Value


@dataclass
class Stripes:
    """The striped part of a graph.

    counts: number of stripes per value. norms: values that are group norms. made: stripes by value, index and number of
    rows of each neighbour. doubled: upsampled stripes, from each of which two stripes are cut.
    """

    tape: Tape = field(default_factory=Tape)
    counts: dict[ir.Value, int] = field(default_factory=dict)
    norms: dict[ir.Value, Norm] = field(default_factory=dict)
    made: dict[tuple[ir.Value, int, int], ir.Value] = field(default_factory=dict)
    doubled: dict[tuple[ir.Value, int], ir.Value] = field(default_factory=dict)

    def rows(self, value: ir.Value, place: int, halo: int = 0) -> ir.Value:
        """A stripe of `value`, with `halo` rows (0 or 1) of each neighbour."""
        key = (value, place, halo)
        if key not in self.made:
            kept = halo and (value, place, 0) in self.made
            made = self.with_neighbours(value, place) if kept else self.computed(value, place, halo)
            self.made[key] = self.sized(made, value, sum(self.halos(value, place, halo)))
        return self.made[key]

    def halos(self, value: ir.Value, place: int, halo: int) -> tuple[int, int]:
        """The rows above and below that a stripe has: none at the picture's edge."""
        return halo * (place > 0), halo * (place < self.counts[value] - 1)

    def sized(self, stripe: ir.Value, value: ir.Value, more: int = 0) -> ir.Value:
        """A stripe of `value` with its shape declared: ONNX Runtime reuses memory of values of equal shape."""
        if value.shape is not None and value.type is not None:
            batch, channels, *_ = value.shape
            stripe.shape = ir.Shape([batch, channels, f"rows+{more}", f"columns*{self.counts[value]}"])
            stripe.type = value.type
        return stripe

    def with_neighbours(self, value: ir.Value, place: int) -> ir.Value:
        """An existing stripe with the neighbouring rows."""
        parts, (above, below) = [self.rows(value, place)], self.halos(value, place, 1)
        if above:
            parts.insert(0, self.cut(self.rows(value, place - 1), self.ints(-1), self.ints(END)))
        if below:
            parts.append(self.cut(self.rows(value, place + 1), self.ints(0), self.ints(1)))
        return self.joined(parts)

    def computed(self, value: ir.Value, place: int, halo: int) -> ir.Value:
        """A stripe computed from the stripes of its node's inputs."""
        if value in self.norms:
            norm, more = self.norms[value], sum(self.halos(value, place, halo))
            scaled = self.op("Mul", self.rows(norm.source, place, halo), norm.scale)
            return self.op("Add", self.sized(scaled, value, more), norm.shift)
        node = value.producer()
        assert node is not None
        if node.op_type == "Resize":
            return self.half(node, place, halo)
        inputs = [self.rows(one, place, halo) if one in self.counts else one for one in node.inputs if one is not None]
        return self.tape.op(node.op_type, inputs, node.attributes)

    def half(self, resize: ir.Node, place: int, halo: int) -> ir.Value:
        """A stripe of an upsampled value: the upper or lower half of an upsampled stripe."""
        source, (above, lower) = resize.inputs[0], divmod(place, 2)
        assert source is not None
        if (source, above) not in self.doubled:
            scales = self.tape.op("Constant", [], {"value_floats": (1.0, 1.0, 2.0, 2.0)})
            inputs = [self.rows(source, above, 1), None, scales]
            self.doubled[source, above] = self.tape.op("Resize", inputs, resize.attributes)
        height = self.tape.op("Shape", [self.rows(source, above)], {"start": ROWS, "end": ROWS + 1})
        first = 2 * self.halos(source, above, 1)[0]
        top, bottom = self.halos(resize.outputs[0], place, halo)
        begin = self.op("Add", self.op("Mul", height, self.ints(lower)), self.ints(first - top))
        end = self.op("Add", self.op("Mul", height, self.ints(lower + 1)), self.ints(first + bottom))
        return self.cut(self.doubled[source, above], begin, end)

    def whole(self, value: ir.Value) -> ir.Value:
        """All stripes of a value, joined."""
        return self.joined([self.rows(value, place) for place in range(self.counts[value])])

    def op(self, op_type: str, *inputs: ir.Value) -> ir.Value:
        """The output of a node without attributes."""
        return self.tape.op(op_type, inputs)

    def ints(self, *numbers: int) -> ir.Value:
        """A constant list of numbers."""
        return self.tape.op("Constant", [], {"value_ints": numbers})

    def cut(self, value: ir.Value, start: ir.Value, end: ir.Value) -> ir.Value:
        """Some rows of a stripe."""
        return self.op("Slice", value, start, end, self.ints(ROWS))

    def joined(self, parts: list[ir.Value]) -> ir.Value:
        """The rows of several stripes, concatenated."""
        return self.tape.op("Concat", parts, {"axis": ROWS}) if len(parts) > 1 else parts[0]


def in_stripes(model: ir.Model) -> int:
    """Computes everything after the first upsampling in stripes, in place; returns the final number of stripes."""
    ShapeInferencePass()(model)
    graph, stripes = model.graph, Stripes()
    for node in list(graph):
        source = node.inputs[0] if node.inputs else None
        if not stripes.counts and source is not None and doubles(node):
            stripes.counts[source], stripes.made[source, 0, 0] = 1, source
        if any(one in stripes.counts for one in node.inputs):
            add(stripes, node)
    for place, output in enumerate(graph.outputs):
        if output in stripes.counts:
            graph.outputs[place] = renamed(stripes.whole(output), output)
    graph.extend(stripes.tape.nodes)
    graph.sort()
    RemoveUnusedNodesPass()(model)
    return max(stripes.counts.values(), default=0)


def renamed(value: ir.Value, like: ir.Value) -> ir.Value:
    """`value` with the name of `like`, which is renamed."""
    value.name, value.shape, value.type = like.name, like.shape, like.type
    like.name = f"{like.name}.unstriped"
    return value


def add(stripes: Stripes, node: ir.Node) -> None:
    """Computes a node's output in stripes; a node that cannot be striped reads whole values."""
    output, counts = node.outputs[0], stripes.counts
    count = max(counts[one] for one in node.inputs if one is not None and one in counts)
    if node.op_type == "Conv" and (reach := reach_of(node)) is not None:
        counts[output] = count
        for place in range(count):
            stripes.made[output, place, 0] = stripes.sized(convolved(stripes, node, place, reach), output)
    elif doubles(node):
        counts[output] = 2 * count
    elif (norm := norm_of(node)) is not None:
        counts[norm[-1].outputs[0]] = count
        stripes.norms[norm[-1].outputs[0]] = normalised(stripes, norm)
    elif node.op_type in POINTWISE and all(one in counts or is_flat(one) for one in node.inputs):
        counts[output] = count
        if any(reader.op_type in ("Reshape", "Resize") for reader in nodes_reading(output)):
            stripes.whole(output)
    else:
        for place, one in enumerate(node.inputs):
            if one is not None and one in counts:
                node.replace_input_with(place, stripes.whole(one))


def reach_of(conv: ir.Node) -> int | None:
    """Rows of a neighbour that a convolution needs, 0 or 1; None if it changes the size or needs more."""
    kernel, pads, strides, dilations = (
        tuple(conv.attributes[name].as_ints()) if name in conv.attributes else usual
        for name, usual in (("kernel_shape", ()), ("pads", (0,) * 4), ("strides", (1,)), ("dilations", (1,)))
    )
    return REACHES.get((kernel, pads)) if {*strides, *dilations} == {1} else None


def convolved(stripes: Stripes, conv: ir.Node, place: int, reach: int) -> ir.Value:
    """One stripe of a Conv's output, with zero padding at the picture's edges only."""
    source, *weights = conv.inputs
    assert source is not None
    top, bottom = (reach - halo for halo in stripes.halos(source, place, reach))
    attributes = {**conv.attributes, "pads": ir.AttrInt64s("pads", (top, reach, bottom, reach))}
    return stripes.tape.op("Conv", [stripes.rows(source, place, reach), *weights], attributes)


def doubles(node: ir.Node) -> bool:
    """True if a node doubles height and width by nearest-neighbour upsampling."""
    if node.op_type != "Resize" or node.attributes["mode"].as_string() != "nearest" or len(node.inputs) < 4:
        return False
    factors, waiting = [], [node.inputs[3]]
    while waiting:
        value = waiting.pop()
        maker = value.producer() if value is not None else None
        if maker is not None and maker.op_type == "Mul":
            factors.append(number(maker.inputs[1]))
        elif maker is not None and maker.op_type != "Shape":
            waiting.extend(maker.inputs)
    return bool(factors) and all(factor is not None and (factor == 2).all() for factor in factors)


def norm_of(first: ir.Node) -> list[ir.Node] | None:
    """The nodes of a group norm that begins with this one, Reshape to Add, each with one reader; None for another."""
    if first.op_type != "Reshape" or number(first.inputs[1]) is None:
        return None
    nodes = [first]
    for op_type in ("InstanceNormalization", "Reshape", "Mul", "Add"):
        found = only_reader(nodes[-1].outputs[0], op_type)
        if found is None or found.inputs[0] is not nodes[-1].outputs[0]:
            return None
        nodes.append(found)
    return nodes


def normalised(stripes: Stripes, norm: list[ir.Node]) -> Norm:
    """A group norm as a factor and an offset per channel, (batch, channels, 1, 1), from all stripes' statistics."""
    first, instance, _, scaled, raised = norm
    source, split, weight, bias = first.inputs[0], number(first.inputs[1]), scaled.inputs[1], raised.inputs[1]
    assert source is not None and split is not None and weight is not None and bias is not None
    groups = int(split[1])
    op, ints = stripes.op, stripes.ints
    mean, variance = statistics(stripes, source, groups)
    epsilon = stripes.tape.op("Constant", [], {"value_float": instance.attributes["epsilon"].as_float()})
    by_group, by_channel = ints(1, groups, -1), ints(0, -1, 1, 1)
    scale = op("Div", op("Reshape", weight, by_group), op("Sqrt", op("Add", variance, epsilon)))
    shift = op("Sub", op("Reshape", bias, by_group), op("Mul", mean, scale))
    return Norm(source, op("Reshape", scale, by_channel), op("Reshape", shift, by_channel))


def statistics(stripes: Stripes, source: ir.Value, groups: int) -> tuple[ir.Value, ir.Value]:
    """Mean and variance of each group, (batch, groups, 1).

    The variance is the mean of the variances of each channel and stripe plus the variance of their means. A sum of
    squares would lose precision where the mean is large.
    """
    op, ints = stripes.op, stripes.ints
    means, variances = [], []
    for place in range(stripes.counts[source]):
        stripe = stripes.rows(source, place)
        means.append(op("ReduceMean", stripe, ints(2, 3)))
        apart = stripes.sized(op("Sub", stripe, means[-1]), source)
        squares = stripes.sized(op("Mul", apart, apart), source)
        variances.append(op("ReduceMean", squares, ints(2, 3)))
    by_group = ints(0, groups, -1)
    each, within = (op("Reshape", stripes.joined(list(parts)), by_group) for parts in (means, variances))
    mean = op("ReduceMean", each, ints(2))
    apart = op("Sub", each, mean)
    return mean, op("Add", op("ReduceMean", within, ints(2)), op("ReduceMean", op("Mul", apart, apart), ints(2)))


def is_flat(value: ir.Value | None) -> bool:
    """True if a constant does not depend on the row."""
    held = number(value)
    return held is not None and (held.ndim < 2 or held.shape[-2] == 1)
