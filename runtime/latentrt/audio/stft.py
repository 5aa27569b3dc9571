"""Short-time Fourier transforms, as torch.stft and torch.istft compute them for a Riffusion spectrogram.

A window is a quarter of the FFT's length. Here it is at the start of the zero padding, not in its middle as in torch:
that rotates the phase of every bin, leaves amplitudes unchanged, and needs a quarter of the memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from latentrt.audio.parameters import FFT, HOP, WINDOW
from latentrt.tensors import Array

HANN = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)
CENTRE = WINDOW // 2
CHUNK = 32  # frames transformed at once; more would not fit into a processor's cache


def chunks(frames: int) -> Iterator[slice]:
    """Slices of at most CHUNK frames."""
    return (slice(start, min(start + CHUNK, frames)) for start in range(0, frames, CHUNK))


def windows_of(signal: Array) -> Array:
    """The windows around every HOP-th sample, a view, mirrored at the ends: (1 + samples // HOP, WINDOW)."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(signal, CENTRE, mode="reflect"), WINDOW)[::HOP]


def spectra(windows: Array, bins: int) -> Array:
    """The first `bins` bins of the transforms of windows (frames, WINDOW): (frames, bins) complex64."""
    # NumPy before 2.0 returns complex128.
    return np.fft.rfft(windows * HANN, FFT)[:, :bins].astype(np.complex64, copy=False)


def amplitudes(signal: Array, bins: int) -> Array:
    """The amplitudes of `signal`, one frame per HOP samples: (frames, bins) float32."""
    windows = windows_of(signal.astype(np.float32, copy=False))
    return np.concatenate([np.abs(spectra(windows[chunk], bins)) for chunk in chunks(len(windows))])


class OverlapAdd:
    """The overlap-add method: a signal from the spectra of its windows, added chunk by chunk."""

    def __init__(self, frames: int) -> None:
        self._blocks = np.zeros((frames + WINDOW // HOP - 1, HOP), np.float32)
        self._norm = np.zeros_like(self._blocks)
        self._add(self._norm, slice(0, frames), np.broadcast_to(HANN**2, (frames, WINDOW)))

    def add(self, chunk: slice, spectra: Array) -> None:
        """Adds the windows whose transforms are (frames of the chunk, bins); higher bins are 0."""
        windows = np.fft.irfft(spectra, FFT)[:, :WINDOW]
        self._add(self._blocks, chunk, (windows * HANN).astype(np.float32, copy=False))

    def _add(self, blocks: Array, chunk: slice, windows: Array) -> None:
        parts = windows.reshape(len(windows), -1, HOP)
        for index in range(WINDOW // HOP):
            blocks[chunk.start + index : chunk.stop + index] += parts[:, index]

    def signal(self) -> Array:
        """The sum, (HOP * (frames - 1),) float32, divided by the windows' weight; resets the sum to 0."""
        inside = slice(CENTRE, -CENTRE)
        total: Array = self._blocks.reshape(-1)[inside] / self._norm.reshape(-1)[inside]
        self._blocks[:] = 0
        return total
