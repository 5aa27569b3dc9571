"""Protobuf messages of ONNX files, read in place and written, without the onnx package.

Only the parts of protobuf's wire format that onnx.proto3 (IR 10) uses, and the numbers of the fields needed here.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import TypeAlias

# Field numbers of onnx.proto3: of ModelProto, GraphProto, NodeProto, TensorProto and StringStringEntryProto.
GRAPH = 7
NODE, INITIALIZER = 1, 5
NODE_INPUT, NODE_OUTPUT, OP_TYPE = 1, 2, 4
DIMS, DATA_TYPE, NAME, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 1, 2, 8, 9, 13, 14
KEY, VALUE = 1, 2
# Values of TensorProto.DataType, and of TensorProto.DataLocation.
FLOAT, FLOAT16 = 1, 10
EXTERNAL = 1

# A protobuf field: its number, its value if it is a varint (else 0), start and end of its bytes.
Field = tuple[int, int, int, int]


# Bytes of a file, or a file mapped into memory.
Content: TypeAlias = bytes | mmap.mmap


def fields(content: Content, start: int, end: int) -> Iterator[Field]:
    """Yields every field of the protobuf message in a range. A varint has an empty range of bytes.

    A field begins where the one before it ends. Raises ValueError, IndexError or KeyError for other bytes.
    """
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


def texts(content: Content, start: int, end: int, number: int) -> list[str]:
    """The texts of a message's field of this number."""
    return [content[a:b].decode() for kind, _, a, b in fields(content, start, end) if kind == number]


def varints(content: Content, start: int, end: int) -> list[int]:
    """The numbers of a packed repeated field."""
    found = []
    while start < end:
        value, start = varint(content, start)
        found.append(value)
    return found


def varint(content: Content, start: int) -> tuple[int, int]:
    """Decodes a varint (seven bits per byte, lowest first). Returns the number and the position after it."""
    value, shift = 0, 0
    while True:
        byte = content[start]
        value |= (byte & 127) << shift
        start, shift = start + 1, shift + 7
        if byte < 128:
            return value, start


def varint_bytes(value: int) -> bytes:
    """A number of 0 or more as a varint."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def number_field(number: int, value: int) -> bytes:
    """A field that holds a number."""
    return varint_bytes(number << 3) + varint_bytes(value)


def header(number: int, size: int) -> bytes:
    """What comes before the bytes of a field that holds bytes, a text or a message."""
    return varint_bytes(number << 3 | 2) + varint_bytes(size)


def bytes_field(number: int, content: bytes | str) -> bytes:
    """A field that holds bytes, a text or a message."""
    whole = content.encode() if isinstance(content, str) else content
    return header(number, len(whole)) + whole
