"""Mel bands: amplitudes of FFT bins to amplitudes of mel bands, and back.

A band is a triangle over frequencies, as in torchaudio 2.11's MelScale with mel_scale="htk" and norm=None.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from latentrt.audio.parameters import BIN_HZ, Parameters
from latentrt.tensors import Array


@lru_cache(maxsize=4)
def filter_bank(parameters: Parameters) -> Array:
    """The weight of every bin in every band, (bands, bins) float32, without bins above the highest frequency."""
    lowest, highest = 2595 * np.log10(1 + np.array([parameters.low_hz, parameters.high_hz]) / 700)
    corners = 700 * (10 ** (np.linspace(lowest, highest, parameters.bands + 2) / 2595) - 1)
    left, top, right = (corners[i : i + parameters.bands, None] for i in range(3))
    frequencies = BIN_HZ * np.arange(parameters.bins)
    triangles = np.minimum((frequencies - left) / (top - left), (right - frequencies) / (right - top))
    bank: Array = np.maximum(triangles, 0).astype(np.float32)
    bank.flags.writeable = False
    return bank


def mel_from_linear(amplitudes: Array, parameters: Parameters) -> Array:
    """The amplitudes of bands, (frames, bands), from those of bins, (frames, bins)."""
    return amplitudes @ filter_bank(parameters).T


def linear_from_mel(bands: Array, parameters: Parameters) -> Array:
    """The amplitudes of bins, (frames, bins) float32, from those of bands, (frames, bands).

    The least-norm solution with negative values set to 0, as torchaudio 2.11's InverseMelScale. The gradient descent of
    older versions converges to it too.
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
