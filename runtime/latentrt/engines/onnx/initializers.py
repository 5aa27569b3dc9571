"""Initialisers of ONNX graphs, found by file and offset, and tensors that override them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentrt.errors import BundleError
from latentrt.tensors import Array


@dataclass(frozen=True)
class Initializer:
    """A float weight of a graph: shape, type, file, and byte offset in the file."""

    shape: tuple[int, ...]
    dtype: str
    file: Path
    start: int

    @property
    def bytes(self) -> int:
        """The size of the weight in its file."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def read(self) -> Array:
        """Returns the weight as it is stored."""
        try:
            array = np.fromfile(self.file, self.dtype, math.prod(self.shape), offset=self.start)
            return array.reshape(self.shape)
        except (OSError, ValueError) as error:
            raise BundleError(f"{self.file}: cannot be read ({error}); copy the bundle again") from error


@dataclass(frozen=True)
class Override:
    """A tensor, and the initialiser that it overrides."""

    array: Array
    initializer: Initializer


def patched_graph(graph: Path, overrides: Mapping[str, Override]) -> bytes | None:
    """Returns an ONNX file with overridden initialisers replaced; None if it holds none of them itself."""
    inside = [one for one in overrides.values() if one.initializer.file == graph]
    patches = sorted(((one.initializer.start, one.array) for one in inside), key=lambda patch: patch[0])
    if not patches:
        return None
    original = np.memmap(graph, np.uint8, mode="r")
    pieces, end = list[memoryview](), 0
    for start, array in patches:
        pieces += [original[end:start].data, array.reshape(-1).view(np.uint8).data]
        end = start + array.nbytes
    return b"".join([*pieces, original[end:].data])


def external_overrides(graph: Path, overrides: Mapping[str, Override]) -> dict[str, Array]:
    """Returns the tensors whose initialisers are in files other than the ONNX file; small ones never are."""
    return {name: one.array for name, one in overrides.items() if one.initializer.file != graph}
