"""Positions of the weights in an ONNX file, without the onnx package, so that single weights can be read.

The parser knows only the needed fields of ModelProto, GraphProto and TensorProto (onnx.proto3, IR 10) and the parts of
protobuf's wire format that these use. Bytes of weights are skipped, not read.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from latentrt.engines.onnx.initializers import Initializer
from latentrt.errors import BundleError

# Field numbers of onnx.proto3.
GRAPH, NODE, INITIALIZER, NODE_INPUT = 7, 1, 5, 1
DIMS, DATA_TYPE, NAME, RAW_DATA, EXTERNAL_DATA = 1, 2, 8, 9, 13
KEY, VALUE = 1, 2
FLOAT, FLOAT16 = 1, 10
DTYPES = {FLOAT: "<f4", FLOAT16: "<f2"}

# A protobuf field: its number, its value if it is a varint (else 0), start and end of its bytes.
Field = tuple[int, int, int, int]


@dataclass(frozen=True)
class CountedInitializer(Initializer):
    """An initialiser, and the number of node inputs that read it."""

    uses: int


def initializers_of(graph: Path) -> dict[str, CountedInitializer]:
    """Returns the float weights of an ONNX file by name, without scalars.

    Raises BundleError for a file that is not an ONNX graph.
    """
    try:
        with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            [(_, _, start, end)] = [field for field in fields(content, 0, len(content)) if field[0] == GRAPH]
            parts = list(fields(content, start, end))
            uses = Counter(name for kind, _, a, b in parts if kind == NODE for name in node_inputs(content, a, b))
            found = (initializer(graph, content, a, b, uses) for kind, _, a, b in parts if kind == INITIALIZER)
            return {name: one for name, one in found if one is not None}
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise BundleError(f"{graph}: got a file that is not an ONNX graph ({error}); copy the bundle again") from error


def initializer(
    graph: Path, content: mmap.mmap, start: int, end: int, uses: Mapping[str, int]
) -> tuple[str, CountedInitializer | None]:
    """Name and position of a TensorProto; None as position of a scalar or of a type other than floats."""
    name, dtype, shape, where = "", "", list[int](), None
    outside: dict[str, str] = {}
    for number, value, first, last in fields(content, start, end):
        if number == DIMS:
            shape += [value] if first == last else varints(content, first, last)
        elif number == DATA_TYPE:
            dtype = DTYPES.get(value, "")
        elif number == NAME:
            name = content[first:last].decode()
        elif number == RAW_DATA:
            where = graph, first
        elif number == EXTERNAL_DATA:
            entry = {key: content[low:high].decode() for key, _, low, high in fields(content, first, last)}
            outside[entry[KEY]] = entry[VALUE]
    if outside:
        where = graph.parent / outside["location"], int(outside.get("offset", 0))
    if not dtype or not shape or where is None:
        return name, None
    return name, CountedInitializer(tuple(shape), dtype, *where, uses[name])


def node_inputs(content: mmap.mmap, start: int, end: int) -> list[str]:
    """The names of a NodeProto's inputs."""
    return [content[a:b].decode() for number, _, a, b in fields(content, start, end) if number == NODE_INPUT]


def fields(content: mmap.mmap, start: int, end: int) -> Iterator[Field]:
    """Yields every field of a protobuf message. A varint has an empty range of bytes."""
    while start < end:
        tag, start = varint(content, start)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, start = varint(content, start)
            yield number, value, start, start
            continue
        size, start = varint(content, start) if kind == 2 else ({1: 8, 5: 4}[kind], start)
        if size > end - start:
            raise ValueError(f"a field of {size} bytes ends after the message")
        yield number, 0, start, start + size
        start += size


def varints(content: mmap.mmap, start: int, end: int) -> list[int]:
    """The numbers of a packed repeated field."""
    found = []
    while start < end:
        value, start = varint(content, start)
        found.append(value)
    return found


def varint(content: mmap.mmap, start: int) -> tuple[int, int]:
    """Decodes a varint (seven bits per byte, lowest first). Returns the number and the position after it."""
    value, shift = 0, 0
    while True:
        byte = content[start]
        value |= (byte & 127) << shift
        start, shift = start + 1, shift + 7
        if byte < 128:
            return value, start
