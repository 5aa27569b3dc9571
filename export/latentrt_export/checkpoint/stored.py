"""Stored tensors: headers of .safetensors files, and reading of tensors in float32."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from latentrt.errors import CheckpointError
from latentrt_export.checkpoint.layouts import Shape, Tensors
from latentrt_export.checkpoint.paths import check_type
from latentrt_export.checkpoint.quantized import refuse_quantized, without_scales

FLOATS = ("F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2")
BATCH_BYTES = 1 << 27


@dataclass(frozen=True)
class Stored:
    """A tensor in a .safetensors file, or some rows of it: file, key, type in the file, shape.

    row: the first row. rows: all rows, where they do not follow one another. turned: the tensor is transposed in the
    file. shape: for a component's weight, the shape of the module. scale: key of the tensor's scale, if it is scaled.
    The key "" means zeros, which no file holds.
    """

    file: Path
    key: str
    dtype: str
    shape: Shape
    row: int = 0
    rows: tuple[int, ...] = ()
    turned: bool = False
    scale: str | None = None


def header(file: Path) -> dict[str, Stored]:
    """Returns the tensors of a .safetensors file, without reading them.

    Scales of fp8 weights are not entries: they belong to their weight's entry. Raises CheckpointError for a file that
    is damaged, of another kind, or quantized in a way that cannot be read.
    """
    check_type(file)
    try:
        with safe_open(file, framework="pt") as tensors:
            slices = {key: tensors.get_slice(key) for key in tensors.keys()}
            found = {key: Stored(file, key, s.get_dtype(), tuple(s.get_shape())) for key, s in slices.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} {unreadable(file, error)}") from error
    refuse_quantized(file, {key: stored.dtype for key, stored in found.items()})
    scales = without_scales(file, {key: stored.shape for key, stored in found.items()})
    return {key: Stored(file, key, found[key].dtype, found[key].shape, scale=scale) for key, scale in scales.items()}


def zeros(file: Path, shape: Shape) -> Stored:
    """Returns a tensor of zeros. file: the file that lacks it, for messages."""
    return Stored(file, "", "F32", shape)


def notes(file: Path) -> dict[str, str]:
    """Returns the metadata in the header of a .safetensors file."""
    with safe_open(file, framework="pt") as tensors:
        return dict(tensors.metadata() or {})


def unreadable(file: Path, error: Exception) -> str:
    """The message about a file that cannot be opened."""
    if isinstance(error, PermissionError):
        return "may not be read (Permission denied): allow it with `chmod u+r`"
    with file.open("rb") as opened:
        start = opened.read(64)
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of git-lfs, not the file itself: fetch it with `git lfs pull`"
    if start.lstrip()[:1] == b"<":
        return "is a web page, not a model: fetch it again, signed in where the site asks for it"
    return f"is damaged or incomplete ({error}): expected .safetensors, fetch it again"


def read_tensors(weights: Mapping[str, Stored], halves: Collection[str] = ()) -> Tensors:
    """Returns copies of the tensors in float32, and of those named in `halves` in fp16.

    A value beyond fp16's range is infinite in it. Raises CheckpointError for a file that has changed.
    """
    by_file = sorted(weights.items(), key=lambda item: item[1].file)
    ends = itertools.accumulate(4 * math.prod(stored.shape) for _, stored in by_file)
    # A file is closed and opened again at intervals: until then, its mapped pages count as memory of this process.
    batches = itertools.groupby(zip(by_file, ends, strict=True), lambda item: (item[0][1].file, item[1] // BATCH_BYTES))
    tensors = {}
    for (file, _), batch in batches:
        try:
            with safe_open(file, framework="pt") as held:
                for (name, stored), _ in batch:
                    whole = held.get_tensor(stored.key) if stored.key else torch.zeros(stored.shape)
                    if stored.scale:
                        whole = scaled(whole, held.get_tensor(stored.scale))
                    turned = whole.T if stored.turned else whole
                    rows = chosen_rows(turned.reshape(turned.shape or (1,)), stored)
                    kind = torch.float16 if name in halves else torch.float32
                    tensors[name] = rows.to(kind, copy=True).reshape(stored.shape).contiguous()
        except (SafetensorError, OSError, RuntimeError) as error:
            raise CheckpointError(f"{file} changed since it was opened ({error}): open it again") from error
    return tensors


def chosen_rows(whole: torch.Tensor, stored: Stored) -> torch.Tensor:
    """Returns the rows of a tensor that a stored one stands for."""
    if stored.rows:
        return whole[list(stored.rows)]
    return whole[stored.row : stored.row + rows_of(stored.shape)]


def scaled(whole: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Returns a weight times its scale, which is one number, or one number per row."""
    return whole.to(torch.float32) * scale.to(torch.float32).reshape(-1, *[1] * (whole.ndim - 1))


def rows_of(shape: Shape) -> int:
    """The number of rows of a tensor; 1 for a scalar."""
    return shape[0] if shape else 1


def under(prefix: str, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Returns the tensors whose keys begin with `prefix`."""
    return {key: stored for key, stored in tensors.items() if key.startswith(prefix)}
