"""Branches of a graph: what is added to the output of a node, in a copy of the graph made before a session.

A node's output `y` becomes `y.plain`, and new nodes right after it compute `y`: beside a product of `x` with a weight,
y = y.plain + x F1 F2, and for a constant y = y.plain + F. All that reads `y`, and its type and shape in the graph, stay
as they are. The factors are initialisers that the session takes from memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from latentrt.engines.onnx import protobuf as pb
from latentrt.errors import BundleError
from latentrt.tensors import Array

TYPES = {"float32": pb.FLOAT, "float16": pb.FLOAT16}
# The file that the factors are said to be in. None is read, because the session gets them from memory.
NOWHERE = "memory"


@dataclass(frozen=True)
class Branch:
    """What is added to the output of a node.

    factors: arrays of the graph's type. Two, (in, rank) and (rank, out), multiply the node's first input. One is added
    as it is, to a constant.
    """

    factors: tuple[Array, ...]


Branches = Mapping[str, Branch]


def factors_of(branches: Branches) -> dict[str, Array]:
    """All factors by the name of their initialiser."""
    return {
        factor_name(output, place): factor
        for output, branch in branches.items()
        for place, factor in enumerate(branch.factors)
    }


def with_branches(content: bytes, branches: Branches) -> bytes:
    """Returns an ONNX file's content with branches, by the output that each is added to.

    Raises BundleError for a file that is not a graph, or that has no such output.
    """
    whole, left, start = memoryview(content), set(branches), 0
    pieces = list[bytes | memoryview]()
    try:
        for number, _, first, end in pb.fields(content, 0, len(content)):
            if number == pb.GRAPH:
                graph = list(graph_pieces(content, first, end, branches, left))
                pieces += [pb.header(pb.GRAPH, sum(map(len, graph))), *graph]
            else:
                pieces.append(whole[start:end])
            start = end
    except (ValueError, IndexError, KeyError) as error:
        raise BundleError(f"got a file that is not an ONNX graph ({error}); copy the bundle again") from error
    if left:
        raise BundleError(f"the graph has no {sorted(left)[0]}, beside which a LoRA stands; copy the bundle again")
    return b"".join(pieces)


def graph_pieces(
    content: bytes, start: int, end: int, branches: Branches, left: set[str]
) -> Iterator[bytes | memoryview]:
    """Yields the bytes of a GraphProto with branches. left: their outputs; those that are found are taken out."""
    whole = memoryview(content)
    for number, _, first, last in pb.fields(content, start, end):
        outputs = pb.texts(content, first, last, pb.NODE_OUTPUT) if number == pb.NODE else []
        if outputs and outputs[0] in branches:
            left.discard(outputs[0])
            yield pb.bytes_field(pb.NODE, renamed(content[first:last], f"{outputs[0]}.plain"))
            [x, *_] = pb.texts(content, first, last, pb.NODE_INPUT)
            yield from nodes_of(branches[outputs[0]], x, outputs[0])
        else:
            yield whole[start:last]
        start = last
    for name, factor in factors_of(branches).items():
        yield pb.bytes_field(pb.INITIALIZER, outside_tensor(name, factor))


def renamed(node: bytes, output: str) -> bytes:
    """A NodeProto whose one output has another name."""
    pieces, start = list[bytes](), 0
    for number, _, _, end in pb.fields(node, 0, len(node)):
        pieces.append(pb.bytes_field(pb.NODE_OUTPUT, output) if number == pb.NODE_OUTPUT else node[start:end])
        start = end
    return b"".join(pieces)


def nodes_of(branch: Branch, x: str, output: str) -> Iterator[bytes]:
    """Yields the nodes that compute `output` from the plain one. x: the input that two factors multiply."""
    added, *second = (factor_name(output, place) for place in range(len(branch.factors)))
    for factor in second:
        narrow, wide = f"{output}.narrow", f"{output}.wide"
        yield pb.bytes_field(pb.NODE, node("MatMul", x, added, narrow))
        yield pb.bytes_field(pb.NODE, node("MatMul", narrow, factor, wide))
        added = wide
    yield pb.bytes_field(pb.NODE, node("Add", f"{output}.plain", added, output))


def factor_name(output: str, place: int) -> str:
    """The name of the initialiser of a factor."""
    return f"{output}.factor.{place}"


def node(operator: str, first: str, second: str, output: str) -> bytes:
    """A NodeProto with two inputs."""
    parts = ((pb.NODE_INPUT, first), (pb.NODE_INPUT, second), (pb.NODE_OUTPUT, output), (pb.OP_TYPE, operator))
    return b"".join(pb.bytes_field(number, text) for number, text in parts)


def outside_tensor(name: str, array: Array) -> bytes:
    """A TensorProto of the array's shape and type whose data is elsewhere."""
    location = pb.bytes_field(pb.KEY, "location") + pb.bytes_field(pb.VALUE, NOWHERE)
    return b"".join(
        [
            *(pb.number_field(pb.DIMS, side) for side in array.shape),
            pb.number_field(pb.DATA_TYPE, TYPES[array.dtype.name]),
            pb.bytes_field(pb.NAME, name),
            pb.bytes_field(pb.EXTERNAL_DATA, location),
            pb.number_field(pb.DATA_LOCATION, pb.EXTERNAL),
        ]
    )
