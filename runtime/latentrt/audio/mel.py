"""Amplitudes over frequency to amplitudes over mel bands, and back.

A band is a triangle over frequencies, as in torchaudio 2.11's MelScale with mel_scale="htk" and norm=None.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from latentrt.audio.parameters import BIN_HZ, Parameters
from latentrt.tensors import Array


@lru_cache(maxsize=4)
def filter_bank(parameters: Parameters) -> Array:
    """The weight of every bin in every band: (bands, bins) float32; bins above the highest frequency are left out."""
    lowest, highest = 2595 * np.log10(1 + np.array([parameters.low_hz, parameters.high_hz]) / 700)
    corners = 700 * (10 ** (np.linspace(lowest, highest, parameters.bands + 2) / 2595) - 1)
    left, top, right = (corners[i : i + parameters.bands, None] for i in range(3))
    frequencies = BIN_HZ * np.arange(parameters.bins)
    triangles = np.minimum((frequencies - left) / (top - left), (right - frequencies) / (right - top))
    bank: Array = np.maximum(triangles, 0).astype(np.float32)
    bank.flags.writeable = False
    return bank


def mel_from_linear(amplitudes: Array, parameters: Parameters) -> Array:
    """The bands' amplitudes, (frames, bands), of the bins': (frames, bins)."""
    return amplitudes @ filter_bank(parameters).T


def linear_from_mel(bands: Array, parameters: Parameters) -> Array:
    """The bins' amplitudes, (frames, bins) float32, whose bands are the ones given: (frames, bands).

    Of all solutions the shortest, with negative values set to 0: what torchaudio 2.11's InverseMelScale computes. It is
    also where the gradient descent of older versions, which start from next to nothing, would arrive.
    """
    weights = np.linalg.solve(overlaps(parameters), bands.T.astype(np.float64)).T.astype(np.float32)
    return np.maximum(weights @ filter_bank(parameters), 0)


@lru_cache(maxsize=4)
def overlaps(parameters: Parameters) -> Array:
    """Overlap of every two mel bands, (bands, bands) float64: a well conditioned band matrix."""
    bank = filter_bank(parameters).astype(np.float64)
    shared: Array = bank @ bank.T
    shared.flags.writeable = False
    return shared
