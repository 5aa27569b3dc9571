"""Weights in an ONNX file, without the onnx package: the places of floats, so that single weights can be read, and the
products that read weights in few bits.

Only the needed fields of ModelProto, GraphProto, NodeProto and TensorProto are read. Bytes of weights are skipped.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from latentrt.engines.onnx import protobuf as pb
from latentrt.engines.onnx.initializers import Initializer
from latentrt.errors import BundleError
from latentrt.lora.places import Decoded

DTYPES = {pb.FLOAT: "<f4", pb.FLOAT16: "<f2"}
# Products of activations with a matrix.
PRODUCTS = ("MatMul", "Gemm")


@dataclass(frozen=True)
class CountedInitializer(Initializer):
    """An initialiser, and the number of node inputs that read it."""

    uses: int


@dataclass(frozen=True)
class CountedDecoded(Decoded):
    """A weight that is decoded from few bits, and the number of node inputs that read it."""

    uses: int


Counted: TypeAlias = CountedInitializer | CountedDecoded


@dataclass(frozen=True)
class Node:
    """A node: its operator, and the names of its inputs and outputs."""

    operator: str
    inputs: list[str]
    outputs: list[str]


@dataclass(frozen=True)
class Tensor:
    """A tensor's name, its TensorProto.DataType, its shape, and the file and offset of its bytes; None if unknown."""

    name: str
    kind: int
    shape: tuple[int, ...]
    where: tuple[Path, int] | None


def initializers_of(graph: Path) -> dict[str, CountedInitializer]:
    """Returns the float weights of an ONNX file by name, without scalars.

    Raises BundleError for a file that is not an ONNX graph.
    """
    nodes, tensors = parts_of(graph)
    uses = Counter(name for node in nodes for name in node.inputs)
    return {
        one.name: CountedInitializer(one.shape, DTYPES[one.kind], *one.where, uses[one.name])
        for one in tensors
        if one.kind in DTYPES and one.shape and one.where is not None
    }


def decoded_in(graph: Path) -> dict[str, CountedDecoded]:
    """Returns the weights that an ONNX file stores in few bits, by the name of what they are decoded to.

    Raises BundleError for a file that is not an ONNX graph.
    """
    nodes, tensors = parts_of(graph)
    known = {one.name: one for one in tensors}
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    found = {}
    for node in nodes:
        if node.operator == "DequantizeLinear" and node.inputs[0] in known:
            scale, [output] = known.get(node.inputs[1]), node.outputs
            # Scales that are stored in another type than the weight's are cast to float32.
            dtype = DTYPES[scale.kind if scale else pb.FLOAT]
            reading, shape = readers.get(output, []), known[node.inputs[0]].shape
            found[output] = CountedDecoded(shape, dtype, product_of(reading, output), len(reading))
    return found


def product_of(nodes: Iterable[Node], weight: str) -> str:
    """The output of the first product with the weight as its matrix; "" if there is none."""
    products = (node for node in nodes if node.operator in PRODUCTS and node.inputs[1] == weight)
    return next((node.outputs[0] for node in products), "")


def parts_of(graph: Path) -> tuple[list[Node], list[Tensor]]:
    """The nodes and the tensors of an ONNX file. Raises BundleError for a file that is not an ONNX graph."""
    try:
        with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            [(_, _, start, end)] = [one for one in pb.fields(content, 0, len(content)) if one[0] == pb.GRAPH]
            parts = list(pb.fields(content, start, end))
            nodes = [node_of(content, a, b) for kind, _, a, b in parts if kind == pb.NODE]
            return nodes, [tensor_of(graph, content, a, b) for kind, _, a, b in parts if kind == pb.INITIALIZER]
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise BundleError(f"{graph}: got a file that is not an ONNX graph ({error}); copy the bundle again") from error


def node_of(content: pb.Content, start: int, end: int) -> Node:
    """A NodeProto's parts."""
    found: Mapping[int, list[str]] = {pb.OP_TYPE: [], pb.NODE_INPUT: [], pb.NODE_OUTPUT: []}
    for number, _, a, b in pb.fields(content, start, end):
        if number in found:
            found[number].append(content[a:b].decode())
    return Node("".join(found[pb.OP_TYPE]), found[pb.NODE_INPUT], found[pb.NODE_OUTPUT])


def tensor_of(graph: Path, content: pb.Content, start: int, end: int) -> Tensor:
    """A TensorProto's parts."""
    name, kind, shape, where = "", 0, list[int](), None
    outside: dict[str, str] = {}
    for number, value, first, last in pb.fields(content, start, end):
        if number == pb.DIMS:
            shape += [value] if first == last else pb.varints(content, first, last)
        elif number == pb.DATA_TYPE:
            kind = value
        elif number == pb.NAME:
            name = content[first:last].decode()
        elif number == pb.RAW_DATA:
            where = graph, first
        elif number == pb.EXTERNAL_DATA:
            entry = {key: content[low:high].decode() for key, _, low, high in pb.fields(content, first, last)}
            outside[entry[pb.KEY]] = entry[pb.VALUE]
    if outside:
        where = graph.parent / outside["location"], int(outside.get("offset", 0))
    return Tensor(name, kind, tuple(shape), where)
