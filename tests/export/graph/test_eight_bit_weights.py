"""Weights in 8 bits, against brute force and closed forms."""

import numpy as np
import pytest

from latentrt_export.graph.eight_bit_weights import SHRINKS, blocks, dequantized, quantized

SHAPES = [((6, 5), 0), ((6, 5), 1), ((4, 3, 3, 3), 0), ((1, 2, 1, 1), 0)]


def normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("largest", [127, 64])
def test_each_channel_uses_the_whole_range_and_errs_by_half_a_step(shape, axis, largest):
    weight = normal(shape)
    values, scale = quantized(weight, axis, largest=largest)
    assert values.dtype == np.int8 and values.shape == shape and values.flags.c_contiguous
    assert scale.dtype == np.float32 and scale.shape == (shape[axis],)
    others = tuple(place for place in range(len(shape)) if place != axis)
    assert (np.abs(values.astype(int)).max(others) == largest).all()
    np.testing.assert_allclose(scale * largest, np.abs(weight).max(others), rtol=1e-6)
    steps = np.moveaxis(np.abs(dequantized(values, scale, axis) - weight), axis, -1) / scale
    assert steps.max() <= 0.5 + 1e-4


def test_no_scale_of_the_grid_has_less_squared_error_than_the_one_chosen():
    weight = normal((8, 200)) ** 3  # long tails
    values, scale = quantized(weight, 0, shrinks=SHRINKS)
    error = ((dequantized(values, scale, 0) - weight) ** 2).sum(1)
    for channel, row in enumerate(weight):
        tried = []
        for shrink in SHRINKS:
            step = np.float32(np.abs(row).max() / 127 * shrink)
            tried.append(((np.clip(np.rint(row / step), -127, 127) * step - row) ** 2).sum())
        assert error[channel] == pytest.approx(min(tried), rel=1e-4)


def test_clipping_is_worth_it_for_few_bits_and_little_for_eight():
    weight = normal((4, 20000))
    errors = {}
    for largest in (7, 127):
        for shrinks in ((1.0,), SHRINKS):
            values, scale = quantized(weight, 0, shrinks=shrinks, largest=largest)
            errors[largest, len(shrinks)] = np.mean((dequantized(values, scale, 0) - weight) ** 2)
    # The least that any step leaves of a unit Gaussian with 15 levels, by integration over its density.
    x = np.linspace(-8, 8, 20001)
    density = np.exp(-(x**2) / 2) / np.exp(-(x**2) / 2).sum()
    least = min(density @ (np.clip(np.rint(x / step), -7, 7) * step - x) ** 2 for step in np.linspace(0.2, 0.6, 81))
    assert errors[7, len(SHRINKS)] == pytest.approx(least, rel=0.02)
    assert errors[7, 1] > 2 * errors[7, len(SHRINKS)]
    assert errors[127, 1] < 1.3 * errors[127, len(SHRINKS)]


def test_blocks_cover_every_channel_once(monkeypatch):
    monkeypatch.setattr("latentrt_export.graph.eight_bit_weights.BLOCK_ELEMENTS", 20)
    rows = normal((7, 9))
    assert [index for block in blocks(rows) for index in range(7)[block]] == list(range(7))
    few, whole = quantized(rows, 0, shrinks=SHRINKS), None
    monkeypatch.undo()
    whole = quantized(rows, 0, shrinks=SHRINKS)
    np.testing.assert_array_equal(few[0], whole[0])
    np.testing.assert_array_equal(few[1], whole[1])


def test_channels_of_zeros_have_a_scale_and_no_values():
    weight = normal((3, 4))
    weight[1] = 0
    values, scale = quantized(weight, 0)
    assert not values[1].any()
    assert scale[1] == scale[[0, 2]].min()
    values, scale = quantized(np.zeros((2, 3), np.float32), 0)
    assert not values.any() and (scale > 0).all()


def test_half_precision_scales_are_rounded_before_the_weight_is():
    weight = normal((16, 64)) * np.float32(1e-4)  # scales near half precision's smallest normal
    values, scale = quantized(weight, 0, scale_dtype=np.float16)
    np.testing.assert_array_equal(scale, scale.astype(np.float16).astype(np.float32))
    assert (scale > 0).all()
    inside = np.abs(weight) < 127 * scale[:, None]
    errors = np.abs(dequantized(values, scale, 0) - weight) / scale[:, None]
    assert errors[inside].max() <= 0.5 + 1e-4


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_order_of_memory_does_not_matter(dtype):
    weight = normal((6, 5)).astype(dtype)
    straight, turned = quantized(weight, 1), quantized(np.asfortranarray(weight), 1)
    np.testing.assert_array_equal(straight[0], turned[0])
    np.testing.assert_array_equal(straight[1], turned[1])
