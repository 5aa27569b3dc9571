"""Costs of a graph on any engine: multiply-adds and tensor sizes of each convolution, matrix product and attention.

Only costs that no engine can avoid are counted. Norms, activation functions, additions and views are fused into a
layer's output. The scores of attention never leave the chip, as in FlashAttention (Dao et al., 2022), so its two
products count as one layer. A tensor that several layers read is read once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from latentrt.errors import ShapeError
from latentrt_export.graph.axes import substituted
from latentrt_export.graph.constants import VIEWS, initializer_of, name_of, shape_of_constant
from latentrt_export.graph.peak_memory import peak_activation_elements
from latentrt_export.graph.shapes import annotate_shapes

Shapes = Mapping[str, Sequence[int]]
Known = Mapping[str, tuple[int, ...]]

OPERATORS = ("Conv", "MatMul", "Gemm")
# Operators between the two products of attention.
BETWEEN_PRODUCTS = ("Softmax", "Add", "Mul", "Div", "Cast", "Where", "QuantizeLinear", "DequantizeLinear")
# Constants with more elements than this are weights; shape inference needs only their shapes.
LARGEST_SHAPE = 64


@dataclass(frozen=True)
class LayerWork:
    """Work of one layer or one attention: multiply-adds, and elements of the tensors that it reads and writes.

    kind: conv, linear or attention. macs: multiply-adds. weights: elements of fixed weights. reads: elements of each
    activation that no earlier layer has read. writes: elements of its output.
    """

    kind: str
    macs: int
    weights: int
    reads: tuple[int, ...]
    writes: int


@dataclass(frozen=True)
class Cost:
    """Cost of one call of a graph at fixed shapes.

    work: number of layers with the same work. parameters: elements of all weights, biases and tables.
    activation_elements: most elements of activations in memory at once.
    """

    work: Mapping[LayerWork, int]
    parameters: int
    activation_elements: int

    @property
    def macs(self) -> int:
        """All multiply-adds."""
        return sum(one.macs * count for one, count in self.work.items())

    @property
    def layer_weights(self) -> int:
        """Elements of the layers' weights, counted once per layer that reads them."""
        return sum(one.weights * count for one, count in self.work.items())


def cost_of(model: ir.Model, shapes: Shapes) -> Cost:
    """Returns the cost of one call for inputs of these shapes. Weights are not read.

    Raises ShapeError for an input without a shape.
    """
    known = concrete_shapes(model, shapes)
    constants = (shape_of_constant(value) for value in model.graph.initializers.values())
    fused = {value for between in attentions_of(model.graph).values() for value in between}
    return Cost(
        work=Counter(layer_works(model.graph, known)),
        parameters=sum(size for shape in constants if (size := math.prod(shape)) > LARGEST_SHAPE),
        activation_elements=peak_activation_elements(model.graph, known, fused),
    )


def total_macs(model: ir.Model, shapes: Shapes) -> int:
    """Returns the multiply-adds of every convolution and matrix product, attention's among them."""
    known = concrete_shapes(model, shapes)
    return sum(node_macs(node, known) for node in model.graph if node.op_type in OPERATORS)


def concrete_shapes(model: ir.Model, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every value for inputs of the given shapes. The weights are neither read nor copied."""
    missing = [name for value in model.graph.inputs if (name := name_of(value)) not in shapes]
    if missing:
        raise ShapeError(f"{model.graph.name}: got shapes of {sorted(shapes)}, expected {', '.join(missing)} as well")
    known = {name: tuple(int(side) for side in shape) for name, shape in shapes.items()}
    written = substituted(model.graph, known)
    known |= {name_of(value): shape_of_constant(value) for value in model.graph.initializers.values()}
    return known | (inferred(model, known) if written is None else written)


def inferred(model: ir.Model, known: Known) -> dict[str, tuple[int, ...]]:
    """The shapes of computed values by inference. known: those of inputs and constants."""
    unsized = model.clone()
    for value in list(unsized.graph.initializers.values()):
        if value.const_value is not None and value.const_value.size > LARGEST_SHAPE:
            value.type = ir.TensorType(value.const_value.dtype)
            del unsized.graph.initializers[name_of(value)]
            unsized.graph.inputs.append(value)
    for value in unsized.graph.inputs:
        value.shape = ir.Shape(known[name_of(value)])
    for value in (*unsized.graph.outputs, *(output for node in unsized.graph for output in node.outputs)):
        value.shape = None
    annotate_shapes(unsized)
    values = [value for node in unsized.graph for value in node.outputs]
    return {name_of(value): value.shape.numpy() for value in values if value.shape is not None}


def node_macs(node: ir.Node, known: Known) -> int:
    """The multiply-adds of one node: those per output element, times the elements."""
    first, second, output = (known[name_of(value)] for value in (*node.inputs[:2], node.outputs[0]))
    if node.op_type == "Conv":
        return math.prod(output) * math.prod(second[1:])
    transposed = node.attributes.get_int("transA", 0) if node.op_type == "Gemm" else 0
    return math.prod(output) * first[0 if transposed else -1]


def layer_works(graph: ir.Graph, known: Known) -> Iterator[LayerWork]:
    """The work of each layer, in graph order."""
    attentions = attentions_of(graph)
    firsts = {scores.producer() for scores, *_ in attentions.values()}
    seen: set[ir.Value] = set()
    for node in graph:
        if node.op_type not in OPERATORS or node in firsts:
            continue
        inner = attentions.get(node, ())
        products = [node, *(value.producer() for value in inner[:1])]
        operands = [value for product in products if product is not None for value in product.inputs[:2]]
        tensors = [value for value in operands if value is not None and value not in inner]
        weights = [value for value in tensors if is_fixed(value)]
        sources = dict.fromkeys(before_resize(value) for value in tensors if not is_fixed(value))
        yield LayerWork(
            kind="conv" if node.op_type == "Conv" else "linear" if weights else "attention",
            macs=sum(node_macs(product, known) for product in products if product is not None),
            weights=sum(elements(value, known) for value in weights),
            reads=tuple(elements(value, known) for value in sources if value not in seen),
            writes=elements(node.outputs[0], known),
        )
        seen.update(sources)


def attentions_of(graph: ir.Graph) -> dict[ir.Node, list[ir.Value]]:
    """The second product of every attention, with the values between the two products: scores, ..., softmax."""
    found = {}
    for node in graph:
        value, between, normed = node.inputs[0] if node.op_type == "MatMul" else None, list[ir.Value](), False
        while value is not None and (maker := value.producer()) is not None:
            between.insert(0, value)
            if maker.op_type == "MatMul" and normed:
                found[node] = between
            if maker.op_type not in BETWEEN_PRODUCTS:
                break
            normed |= maker.op_type == "Softmax"
            value = maker.inputs[0]
    return found


def is_fixed(value: ir.Value) -> bool:
    """True if a value is a weight, in any storage."""
    maker = value.producer()
    while maker is not None and maker.op_type in (*VIEWS, "DequantizeLinear"):
        value = maker.inputs[0]  # type: ignore[assignment]  # each of them has one
        maker = value.producer()
    return initializer_of(value) is not None


def before_resize(value: ir.Value) -> ir.Value:
    """The tensor that a layer has to read for `value`: for an enlarged tensor, the one before the Resize."""
    maker = value.producer()
    enlarged = maker is not None and maker.op_type == "Resize"
    return maker.inputs[0] if enlarged else value  # type: ignore[union-attr, return-value]


def elements(value: ir.Value, known: Known) -> int:
    """The number of elements of a value."""
    return math.prod(known[name_of(value)])
