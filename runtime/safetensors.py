"""Reads .safetensors files with NumPy alone: eight bytes of length, a JSON header, then the tensors as they are.

The format is https://github.com/huggingface/safetensors (version 0.6). Tensors are read when they are asked for.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.errors import CheckpointError
from latentrt.tensors import Array

# NumPy has no bfloat16: it is the upper half of a float32, and read as such.
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "U8": "u1"}
LARGEST_HEADER_BYTES = 100_000_000
REMEDY = "expected .safetensors, fetch it again"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its type as named there, its shape, the byte at which it starts, and when it was found."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stamp: tuple[int, int]

    def read(self) -> Array:
        """Returns the tensor in float32. Raises CheckpointError when the file has changed since it was opened."""
        try:
            if stamp_of(self.file) != self.stamp:
                raise CheckpointError(f"{self.file} changed since it was opened: open it again")
            stored = np.fromfile(self.file, DTYPES[self.dtype], math.prod(self.shape), offset=self.start)
        except OSError as error:
            raise CheckpointError(f"{self.file} cannot be read any more ({error.strerror}): open it again") from error
        if self.dtype == "BF16":
            stored = (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.astype(np.float32).reshape(self.shape)


@dataclass(frozen=True)
class TensorFile:
    """What a file holds: its tensors by key, and what its header notes besides."""

    tensors: Mapping[str, StoredTensor]
    notes: Mapping[str, Any]


def open_tensors(file: Path) -> TensorFile:
    """Returns what a .safetensors file holds, no tensor of it read yet.

    Raises CheckpointError for one that is not there, is of another kind, or is damaged.
    """
    if file.suffix.lower() != ".safetensors":
        raise CheckpointError(f"{file} is of type {file.suffix!r}: expected a .safetensors file")
    try:
        stamp = stamp_of(file)
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > min(LARGEST_HEADER_BYTES, stamp[0] - 8):
                raise ValueError(f"its header of {length} bytes is longer than it may be")
            header = json.loads(opened.read(length))
        notes = dict(header.pop("__metadata__", {}))
        return TensorFile({key: stored(file, entry, 8 + length, stamp) for key, entry in header.items()}, notes)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}): {REMEDY}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged or incomplete ({error}): {REMEDY}") from error


def stored(file: Path, entry: Mapping[str, Any], data: int, stamp: tuple[int, int]) -> StoredTensor:
    """One entry of a header. data: where the tensors start. Raises ValueError where it does not fit the file."""
    first, last = map(int, entry["data_offsets"])
    tensor = StoredTensor(file, entry["dtype"], tuple(map(int, entry["shape"])), data + first, stamp)
    known = tensor.dtype in DTYPES
    size = math.prod(tensor.shape) * np.dtype(DTYPES[tensor.dtype]).itemsize if known else last - first
    if min(tensor.shape, default=1) < 0 or not 0 <= first <= last <= stamp[0] - data or last - first != size:
        raise ValueError(f"a tensor of {tensor.dtype} {tensor.shape} cannot lie at {first} to {last}")
    return tensor


def stamp_of(file: Path) -> tuple[int, int]:
    """The size of a file in bytes and when it was last written: what tells that it is still the same."""
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns
