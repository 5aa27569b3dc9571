"""Vectors that a retrieval-augmented model attends to, Blattmann et al. (2022): CLIP's of a text, and of neighbours."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from latentrt.errors import RequestError
from latentrt.storage.npy import read_npy
from latentrt.tensors import Array
from latentrt.validate import shown

MOST = 64


def context_vectors(given: Any, width: int) -> Array:
    """The vectors of a request, (vectors, width) float32, each of length 1.

    given: an array, or the path of a .npy file; one vector may be flat. Raises RequestError for anything else, for
    another width, for more than MOST vectors, and for a vector of zeros or one that is not finite.
    """
    found = read_npy("vectors", given) if isinstance(given, (str, os.PathLike)) else given
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f":
        raise RequestError(f"vectors: got {shown(given)}, expected floats (vectors, {width}), or their .npy file")
    rows = found.reshape(1, -1) if found.ndim == 1 else found
    if rows.ndim != 2 or rows.shape[1] != width or not 1 <= len(rows) <= MOST:
        raise RequestError(f"vectors: got the shape {found.shape}, expected 1 to {MOST} vectors, (vectors, {width})")
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and lengths.all()):
        raise RequestError("vectors: got one of zeros, or one that is not finite; expected vectors of CLIP")
    unit: Array = (rows / lengths).astype(np.float32)
    return unit
