"""Classifier-free guidance."""

from __future__ import annotations

import numpy as np

from latentrt.tensors import Array


def guided(prediction: Array, guidance: float) -> Array:
    """The guided prediction from one at doubled batch, negative half first: Ho and Salimans (2022), eq. 6.

    guidance: 1 gives the conditional half alone, as in diffusers (the paper's w is guidance - 1).
    """
    negative, positive = np.split(prediction, 2)
    combined: Array = negative + guidance * (positive - negative)
    return combined
