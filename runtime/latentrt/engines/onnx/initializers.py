"""Initialisers of ONNX graphs by their places in files, and graphs with other tensors in these places."""

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
    """A float weight of a graph: its shape, its type, the file and the byte at which it starts."""

    shape: tuple[int, ...]
    dtype: str
    file: Path
    start: int

    @property
    def bytes(self) -> int:
        """The length of the weight in its file."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def read(self) -> Array:
        """Returns the weight as it is stored."""
        try:
            array = np.fromfile(self.file, self.dtype, math.prod(self.shape), offset=self.start)
            return array.reshape(self.shape)
        except (OSError, ValueError) as error:
            raise BundleError(f"{self.file}: cannot be read any more ({error}); copy the bundle again") from error


@dataclass(frozen=True)
class Override:
    """A tensor that overrides an initialiser, and the initialiser's place."""

    array: Array
    initializer: Initializer


def with_weights(graph: Path, overrides: Mapping[str, Override]) -> bytes | None:
    """Returns the content of an ONNX file with the overridden initialisers in it; None if all lie beside the file."""
    inside = [one for one in overrides.values() if one.initializer.file == graph]
    places = sorted(((one.initializer.start, one.array) for one in inside), key=lambda place: place[0])
    if not places:
        return None
    before = np.memmap(graph, np.uint8, mode="r")
    pieces, end = list[memoryview](), 0
    for start, array in places:
        pieces += [before[end:start].data, array.reshape(-1).view(np.uint8).data]
        end = start + array.nbytes
    return b"".join([*pieces, before[end:].data])


def beside(graph: Path, overrides: Mapping[str, Override]) -> dict[str, Array]:
    """Returns the tensors whose initialisers lie in other files than the ONNX file; small ones never do."""
    return {name: one.array for name, one in overrides.items() if one.initializer.file != graph}
