"""Transforms against PyTorch, which torchaudio computes with."""

import numpy as np
import pytest
import torch

from latentrt.audio.parameters import FFT, HOP, WINDOW
from latentrt.audio.stft import OverlapAdd, amplitudes, spectra, windows_of
from latentrt.sampling.noise.torch_cpu import TorchGenerator

SAMPLES = (FFT // 2 + 1, 10000, 13230)  # the shortest that torch mirrors, one between two columns, one on a column


def torch_spectra(signal):
    window = torch.hann_window(WINDOW)
    return torch.stft(torch.from_numpy(signal), FFT, HOP, WINDOW, window, return_complex=True)


@pytest.mark.parametrize("samples", SAMPLES)
def test_amplitudes_are_those_of_torch(samples):
    signal = np.random.default_rng(0).normal(size=samples).astype(np.float32)
    expected = torch_spectra(signal).abs().numpy().T
    assert amplitudes(signal, FFT // 2 + 1).shape == expected.shape
    np.testing.assert_allclose(amplitudes(signal, 4001), expected[:, :4001], atol=2e-6 * expected.max())


def test_windows_put_together_are_the_signal_of_torch():
    frames, bins = 24, 4001
    drawn = np.random.default_rng(1).normal(size=(frames, bins, 2)).astype(np.float32).view(np.complex64)[..., 0]
    drawn[:, 0] = 0
    total = OverlapAdd(frames)
    total.add(slice(0, 7), drawn[:7])
    total.add(slice(7, frames), drawn[7:])
    # In torch a window stands in the middle of its padding.
    turned = drawn * np.exp(-2j * np.pi * ((FFT - WINDOW) // 2 * np.arange(bins) % FFT) / FFT)
    padded = torch.from_numpy(np.pad(turned, ((0, 0), (0, FFT // 2 + 1 - bins))).T.astype(np.complex64))
    expected = torch.istft(padded, FFT, HOP, WINDOW, torch.hann_window(WINDOW)).numpy()
    np.testing.assert_allclose(total.signal(), expected, atol=1e-5 * np.abs(expected).max())
    assert not total.signal().any()


def test_a_signal_survives_its_spectra():
    signal = np.random.default_rng(2).normal(size=30 * HOP).astype(np.float32)
    windows = windows_of(signal)
    total = OverlapAdd(len(windows))
    total.add(slice(0, len(windows)), spectra(windows, FFT // 2 + 1))
    np.testing.assert_allclose(total.signal(), signal, atol=1e-5)


@pytest.mark.parametrize("shape", [(1,), (5, 2), (33, 7)])
def test_uniforms_are_those_of_torch(shape):
    theirs, ours = torch.Generator().manual_seed(7), TorchGenerator(7)
    for _ in range(2):
        np.testing.assert_array_equal(ours.rand(shape), torch.rand(shape, generator=theirs).numpy())
