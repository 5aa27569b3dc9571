"""Specifications of a component's inputs and outputs; ONNX axes, profiles, buffers and checks derive from them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentrt.errors import ShapeError

Array = NDArray[Any]


class DeviceTensor(Protocol):
    """A tensor that stays on the device where an engine computed it, and never changes.

    `numpy.asarray` copies it to the host.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of every axis."""
        ...

    @property
    def ndim(self) -> int:
        """The number of axes."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the elements."""
        ...

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """A copy on the host."""
        ...


Tensor: TypeAlias = Array | DeviceTensor

AXIS = re.compile(r"(?:([1-9][0-9]*)\*)?([a-z_]+)(?:/([1-9][0-9]*))?")


@dataclass(frozen=True)
class TensorSpec:
    """A tensor's name, type and shape.

    An axis is a number, a symbol ("height"), a multiple of one ("8*height") or a fraction, rounded up ("height/2").
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join(map(str, self.shape))})"


def read_only(array: Array) -> Array:
    """The same array, marked read-only, so that an engine may keep a copy on its device between calls."""
    array.flags.writeable = False
    return array


def is_constant(tensor: Tensor) -> bool:
    """Whether a tensor cannot change: it is on a device, or it is a read-only array and no view of another."""
    return not isinstance(tensor, np.ndarray) or (tensor.flags.owndata and not tensor.flags.writeable)


def check(specs: Sequence[TensorSpec], tensors: Mapping[str, Tensor], owner: str) -> dict[str, int]:
    """Checks that each tensor fits its spec, and returns the size of every symbol.

    owner: the component, for messages. Raises ShapeError that names the tensor got and the spec expected.
    """
    names = {spec.name for spec in specs}
    if tensors.keys() != names:
        raise ShapeError(f"{owner}: got tensors {sorted(tensors)}, expected {sorted(names)}")
    sizes: dict[str, int] = {}
    for spec in specs:
        tensor = tensors[spec.name]
        right = tensor.dtype == np.dtype(spec.dtype) and tensor.ndim == len(spec.shape)
        if not right or not all(fits(axis, size, sizes) for axis, size in zip(spec.shape, tensor.shape, strict=True)):
            got = f"{spec.name} {tensor.dtype} {tuple(tensor.shape)}"
            known = ", ".join(f"{name} = {value}" for name, value in sizes.items()) if right else ""
            raise ShapeError(f"{owner}: got {got}, expected {spec}" + (f" with {known}" if known else ""))
    return sizes


def fits(axis: int | str, size: int, sizes: dict[str, int]) -> bool:
    """True if a dimension of `size` fits its axis; a symbolic axis's size is stored in `sizes`."""
    if isinstance(axis, str):
        factor, symbol = split_axis(axis)
        whole = size / factor
        if symbol not in sizes and whole.denominator == 1 and whole > 0 and factor >= 1:  # a fraction is ambiguous
            sizes[symbol] = int(whole)
        if symbol not in sizes:
            return False
    return side_of(axis, sizes) == size


def shape_of(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of a tensor at these sizes of its symbols."""
    return tuple(side_of(axis, sizes) for axis in spec.shape)


def symbols_of(spec: TensorSpec) -> set[str]:
    """The symbols in a tensor's shape."""
    return {split_axis(axis)[1] for axis in spec.shape if isinstance(axis, str)}


def side_of(axis: int | str, sizes: Mapping[str, int]) -> int:
    """The size of an axis at these sizes of its symbol."""
    if isinstance(axis, int):
        return axis
    factor, symbol = split_axis(axis)
    return math.ceil(factor * sizes[symbol])


def split_axis(axis: str) -> tuple[Fraction, str]:
    """The factor and the symbol of an axis: ("8*height") -> (8, "height"), ("height/2") -> (1/2, "height").

    Raises ValueError for anything else.
    """
    match = AXIS.fullmatch(axis)
    if match is None:
        raise ValueError(f"axis {axis!r} is neither a number, a name, nor number*name or name/number")
    return Fraction(int(match[1] or 1), int(match[3] or 1)), match[2]
