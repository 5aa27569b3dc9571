"""Loss of a graph's outputs against a reference: largest relative error, and PSNR."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.manifest import Fidelity
from latentrt.tensors import Array


def loss(got: Array, reference: Array, gate: str) -> Fidelity:
    """The loss of `got`: largest error over the largest reference value, and PSNR over the reference's range."""
    expected: NDArray[np.float64] = reference.astype(np.float64)
    error = got.astype(np.float64) - expected
    if not np.isfinite(error).all():
        return Fidelity(float("inf"), float("-inf"), gate)
    rms, span = float(np.sqrt(np.mean(error**2))), float(np.ptp(expected))
    if not rms:
        return Fidelity(0.0, None, gate)
    # An output that should be constant and is not has lost all information.
    psnr = 20 * math.log10(span / rms) if span else float("-inf")
    return Fidelity(float(np.abs(error).max() / np.abs(expected).max()), psnr, gate)


def worst(losses: Sequence[Fidelity]) -> Fidelity:
    """The largest error and the lowest PSNR of `losses`, rounded to digits that do not depend on threads."""
    psnrs = [round(loss.psnr_db, 1) for loss in losses if loss.psnr_db is not None]
    error = max(loss.relative_error for loss in losses)
    return Fidelity(float(f"{error:.1e}"), min(psnrs, default=None), losses[0].gate)
