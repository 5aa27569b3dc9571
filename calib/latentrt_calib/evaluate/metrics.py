"""Similarity of two pictures or arrays: PSNR, SNR, SSIM and relative error. Equal arrays have infinite PSNR and SNR."""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from latentrt.errors import ShapeError
from latentrt.tensors import Array

Values = NDArray[np.float64]

PEAK = 255.0
WINDOW, SIGMA_PX = 11, 1.5
C1, C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


def psnr_db(got: Array, reference: Array) -> float:
    """The peak signal-to-noise ratio of two pictures, 10 log10(255^2 / mean squared error), in dB.

    got, reference: of the same shape, 0 to 255. Infinite for equal pictures. Raises ShapeError for different shapes.
    """
    got, reference = same_shape(got, reference)
    mean_square = float(np.mean((got - reference) ** 2))
    return decibels(PEAK**2, mean_square)


def snr_db(got: Array, reference: Array) -> float:
    """The signal-to-noise ratio 10 log10(sum reference^2 / sum (got - reference)^2), in dB.

    Infinite for equal arrays, minus infinite if only the reference is zero everywhere. Raises ShapeError for different
    shapes.
    """
    got, reference = same_shape(got, reference)
    return decibels(float(np.sum(reference**2)), float(np.sum((got - reference) ** 2)))


def relative_error(got: Array, reference: Array) -> float:
    """The Euclidean norm of the difference over the norm of the reference; 0 for equal arrays.

    Infinite if only the reference is zero everywhere. Raises ShapeError for different shapes.
    """
    got, reference = same_shape(got, reference)
    error, norm = float(np.linalg.norm(got - reference)), float(np.linalg.norm(reference))
    if not error:
        return 0.0
    return error / norm if norm else math.inf


def ssim(got: Array, reference: Array) -> float:
    """The mean structural similarity of two pictures over pixels and colours; 1 for equal pictures.

    Wang et al. (2004), equation 13 with its constants and window: K1 0.01, K2 0.03, 11x11, Gaussian with sigma 1.5,
    only for windows wholly inside the picture. As scikit-image's `structural_similarity` with gaussian_weights=True,
    sigma=1.5, use_sample_covariance=False.

    got, reference: (height, width, colours), 0 to 255. Raises ShapeError for different shapes or a side under 11.
    """
    x, y = same_shape(got, reference)
    if x.ndim != 3 or min(x.shape[:2]) < WINDOW:
        raise ShapeError(f"ssim: got {x.shape}, expected (height, width, colours) of at least {WINDOW} pixels a side")
    mean_x, mean_y = blurred(x), blurred(y)
    variance_x, variance_y = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    return float(np.mean(similarity / ((mean_x**2 + mean_y**2 + C1) * (variance_x + variance_y + C2))))


def blurred(picture: Values) -> Values:
    """The Gaussian-weighted mean of every window that lies wholly inside the picture."""
    weights = np.exp(-0.5 * (np.arange(WINDOW) - WINDOW // 2) ** 2 / SIGMA_PX**2)
    weights /= weights.sum()
    rows: Values = sliding_window_view(picture, WINDOW, axis=0) @ weights
    columns: Values = sliding_window_view(rows, WINDOW, axis=1) @ weights
    return columns


def same_shape(got: Array, reference: Array) -> tuple[Values, Values]:
    """Both arrays in float64. Raises ShapeError for different shapes, which NumPy would broadcast."""
    if got.shape != reference.shape:
        raise ShapeError(f"got an array of {got.shape} and a reference of {reference.shape}, expected one shape")
    return got.astype(np.float64), reference.astype(np.float64)


def decibels(signal: float, noise: float) -> float:
    """The ratio of two powers in dB; infinite without noise."""
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf
