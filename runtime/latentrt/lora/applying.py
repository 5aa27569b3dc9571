"""All changes of one weight applied in float32, and rounded once to the type of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from latentrt.errors import CheckpointError
from latentrt.lora.change import Change
from latentrt.lora.places import Place
from latentrt.tensors import Array

Changes: TypeAlias = Sequence[tuple[Place, Change]]


def apply_all(whole: Array, changes: Changes) -> None:
    """Applies the changes in order to an array in the weight's shape in the graph, float32, in place.

    Raises CheckpointError if a file has changed, or if a result is not finite.
    """
    for place, change in changes:
        part = place.of(whole)
        part[...] = change.apply(part)


def rounded(array: Array, dtype: DTypeLike, changes: Changes, held: str) -> Array:
    """Returns the array in the graph's type, contiguous. held: how the graph has the weight, for the error.

    Raises CheckpointError if fp16 cannot hold a number. float32 holds them all: `Change` refuses others.
    """
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(array, dtype)
    if found.dtype == np.float16 and not np.isfinite(found).all():
        place, change = changes[-1]
        raise CheckpointError(
            f"{change.file}: {change.layer} makes weights that fp16 cannot hold, as {place.name} is {held}; give a "
            "smaller scale, or export the bundle in fp32"
        )
    return found
