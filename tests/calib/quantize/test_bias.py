"""The bias correction of quantized layers."""

import numpy as np
import pytest

from latentrt_calib.quantize.bias import bias_correction
from latentrt_export.graph.eight_bit_weights import dequantized, quantized


def normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("groups", [1, 2])
def test_bias_correction_restores_the_mean_output_of_a_convolution(groups):
    weight, inputs = normal((6, 4, 3, 3)), normal((50, 4 * groups, 3, 3), 1) + 2
    values, scale = quantized(weight, 0, largest=7)
    delta = bias_correction(weight, values, scale, inputs.mean((0, 2, 3)))
    assert delta.shape == (6,) and delta.dtype == np.float32
    # One output pixel of each: the mean over a kernel's taps stands for every tap.
    flat = np.broadcast_to(inputs.mean((2, 3), keepdims=True), inputs.shape)
    means = []
    for kernel in (weight, dequantized(values, scale, 0)):
        parts = np.split(kernel, groups), np.split(flat, groups, 1)
        means.append(np.concatenate([np.einsum("nchw,ochw->no", x, k) for k, x in zip(*parts, strict=True)], 1).mean(0))
    np.testing.assert_allclose(means[1] + delta, means[0], atol=1e-4)
    assert np.abs(means[1] - means[0]).max() > 0.1


def test_bias_correction_restores_the_mean_output_of_a_product():
    weight, inputs = normal((5, 3)), normal((50, 5), 1) + 2
    values, scale = quantized(weight, 1, largest=7)
    delta = bias_correction(weight, values, scale, inputs.mean(0), axis=1)
    np.testing.assert_allclose(
        (inputs @ dequantized(values, scale, 1)).mean(0) + delta, (inputs @ weight).mean(0), rtol=1e-4
    )
