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
# A weight in few bits: as above, but the name, shape and type of what it is decoded to, and in place of the file, its
# offset and length, the output of the product that reads it; "" for a convolution's.
DecodedRow: TypeAlias = tuple[str, str, Shape, str, str, bool, tuple[int, int], Shape, bool]

DTYPES = {"float32": "<f4", "float16": "<f2"}
QUANTIZED = ("int8", "w8", "w4")
# Precisions whose activations are integers too: a branch of floats beside a product would change their fused form.
FIXED = ("int8",)
# What LoRA files may change, by the denoiser; the shallow UNet and the text encoders follow.
CHANGED = {
    "unet": ("unet", "cross_kv", "time_bias"),
    "transformer": ("transformer", "context_rows", "time_bias"),
}


@dataclass(frozen=True)
class Decoded:
    """A weight in few bits as a graph decodes it: shape and type, and the output of the product that reads it.

    product: "" for a convolution's weight.
    """

    shape: Shape
    dtype: str
    product: str


@dataclass(frozen=True)
class Place:
    """The place of a checkpoint's weight, or bias, in a graph.

    component: the bundle's. name: the initializer's, or of what a weight in few bits is decoded to. transposed: True if
    that is the transpose. rows: its rows there. shape: the weight's own. shared: True if other layers use it as well.
    """

    component: str
    name: str
    initializer: Initializer | Decoded
    transposed: bool
    rows: slice
    shape: Shape
    shared: bool = False

    def of(self, array: Array) -> Array:
        """The weight as a view of the whole array, (rows, ...)."""
        return (array.T if self.transposed else array.reshape(-1, *self.shape[1:]))[self.rows]


@dataclass(frozen=True)
class Table:
    """The content of the table's file: each mapping is by the checkpoint's component, then by its key there.

    unread: shapes of weights that no graph has, as nothing reads them. twins: shapes of norms and biases that the
    graphs do not have themselves, because they equal others, which stand for them, or because the graph has another
    order of their rows. copies: the rows of weights that the shallow UNet of step caching has as well. decoded: weights
    in few bits, in one graph or two.
    """

    weights: Mapping[str, Mapping[str, Row]]
    unread: Mapping[str, Mapping[str, Shape]]
    twins: Mapping[str, Mapping[str, Shape]]
    copies: Mapping[str, Mapping[str, Row]] = field(default_factory=dict)
    decoded: Mapping[str, Mapping[str, tuple[DecodedRow, ...]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Places:
    """The table with each row as a Place, those of copies and of weights in few bits among the others."""

    weights: Mapping[str, Mapping[str, tuple[Place, ...]]]
    unread: Mapping[str, Mapping[str, Shape]]
    twins: Mapping[str, Mapping[str, Shape]]

    def of(self, component: str, key: str) -> tuple[Place, ...]:
        """All places of a weight, in one or two graphs; none if the graphs do not have it."""
        return self.weights.get(component, {}).get(key, ())

    def shapes(self) -> dict[str, dict[str, Shape]]:
        """The shapes of all of a checkpoint's weights, by component and key."""
        return {
            name: {
                **{key: places[0].shape for key, places in found.items()},
                **self.unread[name],
                **self.twins[name],
            }
            for name, found in self.weights.items()
        }


def changed_components(manifest: Manifest) -> tuple[str, ...]:
    """The components whose weights LoRA files may change."""
    shallow = (manifest.shallow,) if manifest.shallow else ()
    denoiser = next((name for name in CHANGED if name in manifest.components), "unet")
    return (*CHANGED[denoiser], *shallow, *manifest.text_encoders)


def read_places(bundle: Bundle) -> Places:
    """Returns the bundle's table. Raises BundleError if there is none, or if it is damaged."""
    name = bundle.manifest.lora_weights
    if not name:
        raise BundleError(
            f"{bundle.folder}: has no table of the weights that LoRA files change; "
            f"add it with `latentrt upgrade {bundle.folder}`, or export the bundle again if that adds none"
        )
    path = bundle.path(name)
    try:
        table = parse(Table, json.loads(path.read_bytes()))
        if not table.weights.keys() == table.unread.keys() == table.twins.keys():
            raise TypedError("expected the same components in weights, unread and twins")
        return Places(all_places(bundle, table), table.unread, table.twins)
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: {error}; {REMEDY}") from error


def all_places(bundle: Bundle, table: Table) -> dict[str, dict[str, tuple[Place, ...]]]:
    """The places in a table's rows, by component and key. Raises TypedError for rows that contradict each other."""
    found: dict[str, dict[str, tuple[Place, ...]]] = {
        component: {key: (place_of(bundle, row, f".weights.{component}.{key}"),) for key, row in rows.items()}
        for component, rows in table.weights.items()
    }
    for component, more in table.decoded.items():
        for key, decoded in more.items():
            where = f".decoded.{component}.{key}"
            places = tuple(decoded_place(bundle, row, where) for row in decoded)
            if component not in found or key in found[component] or len({one.shape for one in places}) != 1:
                raise TypedError(
                    f"{where}: expected rows of one shape, and the component, but no such key, in .weights"
                )
            found[component][key] = places
    for component, copies in table.copies.items():
        for key, row in copies.items():
            where = f".copies.{component}.{key}"
            held, place = found.get(component, {}).get(key), place_of(bundle, row, where)
            if held is None or held[0].shape != place.shape:
                raise TypedError(f"{where}: expected a weight of the same shape in .weights")
            found[component][key] = (*held, place)
    return found


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
    check_rows(where, stored, transposed, (first, end), shape)
    return Place(component, name, initializer, transposed, slice(first, end), shape, shared)


def decoded_place(bundle: Bundle, row: DecodedRow, where: str) -> Place:
    """The place in a row of a weight in few bits. Raises TypedError if it contradicts itself or the bundle."""
    component, name, stored, dtype, product, transposed, (first, end), shape, shared = row
    if component not in bundle.manifest.components or dtype not in DTYPES:
        raise TypedError(f"{where}: got {component!r} in {dtype!r}, expected a component, and {' or '.join(DTYPES)}")
    check_rows(where, stored, transposed, (first, end), shape)
    decoded = Decoded(stored, DTYPES[dtype], product)
    return Place(component, name, decoded, transposed, slice(first, end), shape, shared)


def check_rows(where: str, stored: Shape, transposed: bool, span: tuple[int, int], shape: Shape) -> None:
    """Raises TypedError unless an array of the shape `stored` has these rows, of a weight of that shape."""
    (first, end), rows = span, stored[-1 if transposed else 0] if stored else 0
    whole = min(shape, default=0) > 0 and rows * math.prod(shape[1:]) == math.prod(stored)
    if not whole or (transposed and len(shape) != 2) or not 0 <= first < end <= rows or end - first != shape[0]:
        raise TypedError(f"{where}: got the rows {first} to {end} of {list(stored)}, expected {list(shape)}")


def row_of(place: Place, folder: Path) -> list[Any]:
    """A place as a row of the table of the bundle in `folder`, for json.dumps."""
    one = place.initializer
    dtype = next(name for name, stored in DTYPES.items() if stored == one.dtype)
    held: list[Any] = (
        [one.product] if isinstance(one, Decoded) else [one.file.relative_to(folder).as_posix(), one.start, one.bytes]
    )
    rows = [place.rows.start, place.rows.stop]
    stored = [list(one.shape), dtype, *held]
    return [place.component, place.name, *stored, place.transposed, rows, list(place.shape), place.shared]
