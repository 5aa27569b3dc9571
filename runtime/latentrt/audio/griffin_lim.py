"""Griffin-Lim: a signal from a spectrogram's amplitudes, which have no phases."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from latentrt.audio.parameters import FFT, WINDOW
from latentrt.audio.stft import OverlapAdd, chunks, spectra, windows_of
from latentrt.sampling.noise.torch_cpu import TorchGenerator
from latentrt.tensors import Array

ITERATIONS = 32
MOMENTUM = 0.99
ROWS = 64  # bins whose initial phases are drawn at once


def griffin_lim(
    amplitudes: Array,
    generator: TorchGenerator,
    iterations: int = ITERATIONS,
    *,
    advance: Callable[[], None] = lambda: None,
) -> Array:
    """A signal, (HOP * (frames - 1),) float32, with nearly these amplitudes: (frames, bins) float32.

    The fast Griffin-Lim algorithm (Perraudin, Balazs, Sondergaard 2013), as torchaudio 2.11's griffinlim with
    power=1, momentum=0.99, rand_init=True: the same signal from the same torch seed, except for rounding. Windows are
    processed a few at a time, so that only 8 bytes per amplitude are needed.
    """
    frames, bins = amplitudes.shape
    total = OverlapAdd(frames)
    previous = first_phases(generator, frames, bins)
    for chunk in chunks(frames):
        total.add(chunk, amplitudes[chunk] * previous[chunk])
    previous[:] = 0
    for _ in range(iterations):
        windows = windows_of(total.signal())
        for chunk in chunks(frames):
            rebuilt = spectra(windows[chunk], bins)
            phases = rebuilt - np.float32(MOMENTUM / (1 + MOMENTUM)) * previous[chunk]
            previous[chunk] = rebuilt
            phases /= np.abs(phases) + np.float32(1e-16)
            total.add(chunk, amplitudes[chunk] * phases)
        advance()
    return total.signal()


def first_phases(generator: TorchGenerator, frames: int, bins: int) -> Array:
    """Initial phases as in torchaudio: (frames, bins) complex64, real and imaginary parts in [0, 1), not normalised.

    All of the FFT's bins are drawn, so that the next channel's random numbers are torch's too. The phases are rotated
    for the window's position in `latentrt.audio.stft`.
    """
    phases = np.empty((frames, bins), np.complex64)
    rotations = np.exp(2j * np.pi / FFT * ((FFT - WINDOW) // 2 * np.arange(bins) % FFT)).astype(np.complex64)
    for start in range(0, FFT // 2 + 1, ROWS):
        values = generator.rand((min(ROWS, FFT // 2 + 1 - start), frames, 2)).view(np.complex64)[..., 0]
        part = slice(start, min(start + ROWS, bins))
        phases[:, part] = values.T[:, : max(0, bins - start)] * rotations[part]
    return phases
