"""Loudness: signals scaled to the level of Riffusion's clips."""

from __future__ import annotations

import numpy as np

from latentrt.tensors import Array

FULL = 32768
LOUDNESS_DB = -12.0  # root mean square, of full scale
HEADROOM_DB = 0.1


def levelled(signal: Array) -> Array:
    """The signal (channels, samples) as int16 (samples, channels), scaled to -12 dBFS, then to a peak of -0.1 dB.

    As riffusion 0.0.5's audio_util does with pydub: peaks more than 12 dB above the mean are clipped. Silence stays.
    """
    rms = np.sqrt(np.mean(np.square(signal, dtype=np.float64))) or 1.0
    clipped = np.clip(signal * (10 ** (LOUDNESS_DB / 20) / rms), -1, 1)
    peak = np.abs(clipped).max() or 1.0
    return np.rint(clipped.T * (10 ** (-HEADROOM_DB / 20) * FULL / peak)).astype(np.int16)
