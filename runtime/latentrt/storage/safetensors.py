"""A reader of .safetensors files with NumPy alone: eight bytes of length, a JSON header, then the raw tensors.

The format is https://github.com/huggingface/safetensors (version 0.6). Each tensor is read on demand.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.errors import CheckpointError
from latentrt.tensors import Array

# 8-bit floats: (bits of the exponent, its bias). OCP 8-bit Floating Point Specification 1.0, section 5, and Noune et
# al. 2022 (FNUZ).
FLOATS8 = {"F8_E4M3": (4, 7), "F8_E5M2": (5, 15), "F8_E4M3FNUZ": (4, 8), "F8_E5M2FNUZ": (5, 16)}
# NumPy has no bfloat16, which is the upper half of a float32: its bits are read as integers.
DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"},
    **dict.fromkeys(FLOATS8, "u1"),
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1"},
    "BOOL": "?",
}
FLOATS = ("F64", "F32", "F16", "BF16", *FLOATS8)
NUMBERS = (*DTYPES,)
PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl")
LARGEST_HEADER_BYTES = 100_000_000
REMEDY = "expected .safetensors, fetch it again"
# Other content in files named .safetensors, by its first bytes.
OTHERS = (
    (rb"\s*<", "a web page: the download needs a login, or was of the page and not of the file"),
    (rb"version https://git-lfs", "a pointer of Git LFS: run `git lfs pull` where it was cloned"),
    (rb"\s*\{", "JSON text: the download failed, or it is the index of shards"),
    (rb"PK\x03\x04|\x80[\x02-\x05]", "a pickle under another name: convert it with torch and safetensors"),
    (rb"GGUF", "a GGUF file"),
)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its type in the file, its shape, its first byte, and the file's stamp when it was opened."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stamp: tuple[int, int]

    def read(self) -> Array:
        """Returns the tensor in float32.

        Raises CheckpointError for a type that NumPy cannot read, and if the file has changed since it was opened.
        """
        if self.dtype not in DTYPES:
            expected = ", ".join(DTYPES)
            raise CheckpointError(f"{self.file} has a tensor of type {self.dtype!r}, expected one of {expected}")
        try:
            if stamp_of(self.file) != self.stamp:
                raise CheckpointError(f"{self.file} changed since it was opened: open it again")
            stored = np.fromfile(self.file, DTYPES[self.dtype], math.prod(self.shape), offset=self.start)
        except OSError as error:
            raise CheckpointError(f"{self.file} cannot be read any more ({error.strerror}): open it again") from error
        if len(stored) != math.prod(self.shape):
            raise CheckpointError(f"{self.file} cannot be read any more (it is cut short): open it again")
        if self.dtype == "BF16":
            stored = (stored.astype(np.uint32) << 16).view(np.float32)
        elif self.dtype in FLOATS8:
            stored = values_of(self.dtype)[stored]
        with np.errstate(over="ignore"):
            read: Array = stored.astype(np.float32).reshape(self.shape)
        return read


@dataclass(frozen=True)
class TensorFile:
    """Content of a file: tensors by key, and the metadata of its header."""

    tensors: Mapping[str, StoredTensor]
    notes: Mapping[str, Any]


def open_tensors(file: Path) -> TensorFile:
    """Returns the content of a .safetensors file; no tensor is read yet.

    Raises CheckpointError for a file that is missing, of another kind, or damaged.
    """
    if file.suffix.lower() != ".safetensors":
        pickled = file.suffix.lower() in PICKLES
        hint = "; torch.load(..., weights_only=True) and safetensors.torch.save_file convert it" if pickled else ""
        raise CheckpointError(f"{file} is of type {file.suffix!r}: expected a .safetensors file{hint}")
    try:
        stamp = stamp_of(file)
        with file.open("rb") as opened:
            start = opened.read(32)
            opened.seek(8)
            length = int.from_bytes(start[:8], "little")
            other = next((what for first, what in OTHERS if re.match(first, start)), None)
            too_long = length > min(LARGEST_HEADER_BYTES, stamp[0] - 8)
            if too_long and other is not None:
                raise CheckpointError(f"{file} is {other}; expected a .safetensors file")
            if too_long:
                raise ValueError(f"its header of {length} bytes is too long")
            header = json.loads(opened.read(length), object_pairs_hook=unique)
        notes = notes_of(header.pop("__metadata__", None))
        return TensorFile({key: stored(file, entry, 8 + length, stamp) for key, entry in header.items()}, notes)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}): {REMEDY}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged or incomplete ({error}): {REMEDY}") from error


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object from its pairs. Raises ValueError for a repeated key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header has a key twice")
    return found


def notes_of(metadata: Any) -> dict[str, str]:
    """The metadata of a header, where null is none. Raises ValueError for other than texts."""
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("its metadata are not texts")
    return metadata


@cache
def values_of(dtype: str) -> Array:
    """The values of all 256 codes of an 8-bit float type, (256,) float32."""
    exponent_bits, bias = FLOATS8[dtype]
    mantissa_bits = 7 - exponent_bits
    bits = np.arange(256)
    exponent, mantissa = (bits & 127) >> mantissa_bits, bits & ((1 << mantissa_bits) - 1)
    normal = exponent > 0
    fraction = mantissa / (1 << mantissa_bits) + normal
    values = np.where(bits > 127, -fraction, fraction) * np.exp2(np.maximum(exponent, 1).astype(np.float64) - bias)
    if dtype.endswith("FNUZ"):
        values[128] = np.nan
    elif dtype == "F8_E4M3":
        values[[127, 255]] = np.nan
    else:
        values[exponent == 31] = np.where(mantissa, np.nan, np.copysign(np.inf, values))[exponent == 31]
    found: Array = values.astype(np.float32)
    return found


def stored(file: Path, entry: Mapping[str, Any], data: int, stamp: tuple[int, int]) -> StoredTensor:
    """The tensor of a header entry. data: first byte of all tensors. Raises ValueError if it does not fit the file."""
    first, last = whole(entry["data_offsets"])
    if not isinstance(entry["dtype"], str):
        raise ValueError(f"{entry['dtype']!r} is no type of a tensor")
    tensor = StoredTensor(file, entry["dtype"], whole(entry["shape"]), data + first, stamp)
    known = tensor.dtype in DTYPES
    size = math.prod(tensor.shape) * np.dtype(DTYPES[tensor.dtype]).itemsize if known else last - first
    if min(tensor.shape, default=1) < 0 or not 0 <= first <= last <= stamp[0] - data or last - first != size:
        raise ValueError(f"a tensor of {tensor.dtype} {tensor.shape} cannot lie at {first} to {last}")
    return tensor


def whole(listed: Any) -> tuple[int, ...]:
    """A JSON list of whole numbers as a tuple. Raises ValueError for anything else."""
    if not isinstance(listed, list) or any(type(number) is not int for number in listed):
        raise ValueError(f"{listed!r} are no whole numbers")
    return tuple(listed)


def stamp_of(file: Path) -> tuple[int, int]:
    """A file's size in bytes and modification time in ns, to recognise a changed file."""
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns
