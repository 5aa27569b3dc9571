"""The bundle's table of weights that LoRA files may change: each weight of the checkpoint, and its place in a graph.

The exporter writes the table (`latentrt_export.lora_table`): only it knows the weights that it transposed, stacked or
moved.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from latentrt.bundle.folder import REMEDY, Bundle
from latentrt.bundle.manifest import Manifest
from latentrt.engines.onnx.initializers import Initializer
from latentrt.errors import BundleError
from latentrt.storage.json_codec import TypedError, parse
from latentrt.tensors import Array

Shape: TypeAlias = tuple[int, ...]
# A weight: the bundle's component; the initializer's name, shape, type, file, offset and length in bytes; transposed
# there or not; first row and last row + 1 there; the weight's own shape; shared with other layers or not.
Row: TypeAlias = tuple[str, str, Shape, str, str, int, int, bool, tuple[int, int], Shape, bool]

DTYPES = {"float32": "<f4", "float16": "<f2"}
QUANTIZED = ("int8", "w8", "w4")


@dataclass(frozen=True)
class Place:
    """The place of a checkpoint's weight, or bias, in a graph.

    component: the bundle's. name: the initializer's. transposed: True if the initializer holds the transpose. rows: its
    rows in the initializer. shape: the weight's own. shared: True if other layers use it as well.
    """

    component: str
    name: str
    initializer: Initializer
    transposed: bool
    rows: slice
    shape: Shape
    shared: bool = False

    def of(self, array: Array) -> Array:
        """The weight as a view of the initializer's array, (rows, ...)."""
        return (array.T if self.transposed else array.reshape(-1, *self.shape[1:]))[self.rows]


@dataclass(frozen=True)
class Table:
    """The content of the table's file: each mapping is by the checkpoint's component, then by its key there.

    unread: shapes of weights that no graph has, as nothing reads them. twins: shapes of norms and biases that the
    graphs do not have themselves, because they equal others, which stand for them. copies: the rows of weights that the
    shallow UNet of step caching has as well.
    """

    weights: Mapping[str, Mapping[str, Row]]
    unread: Mapping[str, Mapping[str, Shape]]
    twins: Mapping[str, Mapping[str, Shape]]
    copies: Mapping[str, Mapping[str, Row]] = field(default_factory=dict)


@dataclass(frozen=True)
class Places:
    """The table with each row as a Place."""

    weights: Mapping[str, Mapping[str, Place]]
    unread: Mapping[str, Mapping[str, Shape]]
    twins: Mapping[str, Mapping[str, Shape]]
    copies: Mapping[str, Mapping[str, Place]] = field(default_factory=dict)

    def of(self, component: str, key: str) -> tuple[Place, ...]:
        """All places of a weight, in one or two graphs; none if the graphs do not have it."""
        held = (found.get(component, {}).get(key) for found in (self.weights, self.copies))
        return tuple(place for place in held if place is not None)


def changed_components(manifest: Manifest) -> tuple[str, ...]:
    """The components whose weights LoRA files may change."""
    shallow = (manifest.shallow,) if manifest.shallow else ()
    return ("unet", *shallow, "cross_kv", "time_bias", *manifest.text_encoders)


def read_places(bundle: Bundle) -> Places:
    """Returns the bundle's table. Raises BundleError if there is none, or if it is damaged."""
    name = bundle.manifest.lora_weights
    if not name:
        raise BundleError(
            f"{bundle.folder}: has no table of the weights that LoRA files change; "
            f"add it with `latentrt upgrade {bundle.folder}`"
        )
    path = bundle.path(name)
    try:
        table = parse(Table, json.loads(path.read_bytes()))
        if not table.weights.keys() == table.unread.keys() == table.twins.keys():
            raise TypedError("expected the same components in weights, unread and twins")
        weights, copies = (
            {
                component: {key: place_of(bundle, row, f".{name}.{component}.{key}") for key, row in rows.items()}
                for component, rows in held.items()
            }
            for name, held in (("weights", table.weights), ("copies", table.copies))
        )
        for component, found in copies.items():
            for key, place in found.items():
                if key not in weights.get(component, {}) or weights[component][key].shape != place.shape:
                    raise TypedError(f".copies.{component}.{key}: expected a weight of the same shape in .weights")
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: {error}; {REMEDY}") from error
    return Places(weights, table.unread, table.twins, copies)


def place_of(bundle: Bundle, row: Row, where: str) -> Place:
    """The place in a row. Raises TypedError if it contradicts the component's files or itself."""
    component, name, stored, dtype, file, start, length, transposed, (first, end), shape, shared = row
    found = bundle.manifest.components.get(component)
    if found is None or file not in (found.file, *found.data):
        raise TypedError(f"{where}: got {component!r} and {file!r}, expected a component and a file of it")
    if dtype not in DTYPES:
        raise TypedError(f"{where}: got the type {dtype!r}, expected one of {', '.join(DTYPES)}")
    initializer = Initializer(stored, DTYPES[dtype], bundle.path(file), start)
    inside = 0 <= start and start + length <= bundle.manifest.files[file].bytes
    if not inside or length != initializer.bytes or min(stored, default=0) < 1:
        raise TypedError(f"{where}: got {length} bytes at {start} for {list(stored)}, which {file} does not have")
    rows = stored[-1 if transposed else 0]
    whole = min(shape, default=0) > 0 and rows * math.prod(shape[1:]) == math.prod(stored)
    if not whole or (transposed and len(shape) != 2) or not 0 <= first < end <= rows or end - first != shape[0]:
        raise TypedError(f"{where}: got the rows {first} to {end} of {list(stored)}, expected {list(shape)}")
    return Place(component, name, initializer, transposed, slice(first, end), shape, shared)


def row_of(place: Place, folder: Path) -> list[Any]:
    """A place as a row of the table of the bundle in `folder`, for json.dumps."""
    one = place.initializer
    dtype = next(name for name, stored in DTYPES.items() if stored == one.dtype)
    stored = [list(one.shape), dtype, one.file.relative_to(folder).as_posix(), one.start, one.bytes]
    rows = [place.rows.start, place.rows.stop]
    return [place.component, place.name, *stored, place.transposed, rows, list(place.shape), place.shared]
