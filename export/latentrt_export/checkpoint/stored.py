"""Tensors where they are stored: what .safetensors files hold by their headers, and reading it in float32."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
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
    """A tensor in a .safetensors file, or some rows of it: where it lies, its type as named there, its shape.

    row: the first that is meant. turned: whether rows are columns in the file. In what a component names, `shape` is
    the one that the tensor is to have. scale: the key of what the whole tensor is times, where it is scaled. A key of
    "" is that of zeros, which no file holds.
    """

    file: Path
    key: str
    dtype: str
    shape: Shape
    row: int = 0
    turned: bool = False
    scale: str | None = None


def header(file: Path) -> dict[str, Stored]:
    """Returns what a .safetensors file holds, without reading a tensor.

    Scales of fp8 weights are no entries of their own: they are of the weight that they belong to. Raises
    CheckpointError for a file that is damaged, of another kind, or quantized in a way that cannot be read.
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
    """Returns what is read as zeros. file: what lacks them."""
    return Stored(file, "", "F32", shape)


def notes(file: Path) -> dict[str, str]:
    """Returns what the header of a .safetensors file, known to be one, notes besides its tensors."""
    with safe_open(file, framework="pt") as tensors:
        return dict(tensors.metadata() or {})


def unreadable(file: Path, error: Exception) -> str:
    """What to say of a file that cannot be opened."""
    if isinstance(error, PermissionError):
        return "may not be read (Permission denied): allow it with `chmod u+r`"
    with file.open("rb") as opened:
        start = opened.read(64)
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of git-lfs, not the file itself: fetch it with `git lfs pull`"
    if start.lstrip()[:1] == b"<":
        return "is a web page, not a model: fetch it again, signed in where the site asks for it"
    return f"is damaged or incomplete ({error}): expected .safetensors, fetch it again"


def read_tensors(weights: Mapping[str, Stored]) -> Tensors:
    """Returns copies of the tensors in float32. Raises CheckpointError for a file that has changed."""
    by_file = sorted(weights.items(), key=lambda item: item[1].file)
    ends = itertools.accumulate(4 * math.prod(stored.shape) for _, stored in by_file)
    # A file is closed and opened again every so often: all that was read of it counts as our memory until then.
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
                    rows = turned.reshape(turned.shape or (1,))[stored.row : stored.row + rows_of(stored.shape)]
                    tensors[name] = rows.to(torch.float32, copy=True).reshape(stored.shape).contiguous()
        except (SafetensorError, OSError, RuntimeError) as error:
            raise CheckpointError(f"{file} changed since it was opened ({error}): open it again") from error
    return tensors


def scaled(whole: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Returns a weight times its scale, which is one number, or one a row."""
    return whole.to(torch.float32) * scale.to(torch.float32).reshape(-1, *[1] * (whole.ndim - 1))


def rows_of(shape: Shape) -> int:
    """How many rows a tensor has; a number has one."""
    return shape[0] if shape else 1


def under(prefix: str, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Returns the tensors whose keys begin so."""
    return {key: stored for key, stored in tensors.items() if key.startswith(prefix)}
