"""Variation noise against rotations worked out vector by vector, and what must hold at the ends and between."""

import math

import numpy as np
import pytest

from latentrt.errors import RequestError
from latentrt.sampling.noise.torch_cpu import randn
from latentrt.sampling.noise.variation import slerp, varied

FRACTIONS = [0.0, 0.05, 0.3, 0.5, 0.9, 1.0]


def turned(fraction: float, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Two vectors' slerp another way: the unit vector of `a` rotated in their plane, and read as a mix of both."""
    unit_a, unit_b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    across = unit_b - unit_b.dot(unit_a) * unit_a
    across /= np.linalg.norm(across)
    whole = math.atan2(unit_b.dot(across), unit_b.dot(unit_a))
    angle = fraction * whole
    direction = math.cos(angle) * unit_a + math.sin(angle) * across
    weights = np.linalg.lstsq(np.stack([unit_a, unit_b], axis=1), direction, rcond=None)[0]
    return weights[0] * a + weights[1] * b


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 12, 5), (1, 2, 1)])
def test_each_column_turns_by_its_own_angle(fraction, shape):
    noise, other = randn(shape, 1).astype(np.float64), randn(shape, 2).astype(np.float64)
    result = varied(noise.astype(np.float32), other.astype(np.float32), fraction)
    assert (result.shape, result.dtype) == (shape, np.float32)
    for channel in range(shape[0]):
        for column in range(shape[2]):
            expected = turned(fraction, noise[channel, :, column], other[channel, :, column])
            np.testing.assert_allclose(result[channel, :, column], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_without_an_axis_the_whole_array_turns(fraction):
    a, b = randn((3, 4, 5), 1), randn((3, 4, 5), 2)
    expected = turned(fraction, a.reshape(-1).astype(np.float64), b.reshape(-1).astype(np.float64))
    np.testing.assert_allclose(slerp(fraction, a, b).reshape(-1), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_the_ends_are_exact(axis):
    a, b = randn((3, 7, 5), 1), randn((3, 7, 5), 2)
    assert slerp(0, a, b, axis).tobytes() == a.tobytes()
    assert slerp(1, a, b, axis).tobytes() == b.tobytes()


def test_a_known_quarter_turn():
    a, b = np.array([2, 0], np.float32), np.array([0, 3], np.float32)
    np.testing.assert_allclose(slerp(1 / 3, a, b), [2 * math.sin(math.pi / 3), 3 * math.sin(math.pi / 6)], rtol=1e-6)


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.8])
def test_between_two_noises_there_is_as_much_noise(strength):
    noise, other = randn((4, 64, 64), 1), randn((4, 64, 64), 2)
    assert varied(noise, other, strength).std() == pytest.approx(1, abs=0.02)
    straight = (1 - strength) * noise + strength * other
    assert straight.std() < 0.95


def test_there_and_back_are_mirrored():
    a, b = randn((4, 6, 3), 1), randn((4, 6, 3), 2)
    np.testing.assert_allclose(varied(a, b, 0.3), varied(b, a, 0.7), rtol=0, atol=1e-6)


@pytest.mark.parametrize("strength", FRACTIONS)
def test_the_same_seed_varies_nothing(strength):
    noise = randn((4, 8, 8), 1)
    np.testing.assert_allclose(varied(noise, noise.copy(), strength), noise, rtol=1e-6)


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize(
    ("b", "half"), [([2, 4], [1.5, 3]), ([-1, -2], [0, 0]), ([0, 0], [0.5, 1]), ([-3, -6], [-1, -2])]
)
def test_vectors_without_a_plane_are_mixed_straight(axis, b, half):
    a, b = np.array([1, 2], np.float32), np.array(b, np.float32)
    np.testing.assert_allclose(slerp(0.5, a, b, axis), half, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(slerp(0.5, b, a, axis), half, rtol=1e-6, atol=1e-6)


def test_one_row_of_latents_gives_numbers():
    result = varied(randn((4, 1, 9), 1), randn((4, 1, 9), 2), 0.4)
    assert np.isfinite(result).all()


def test_nearly_parallel_vectors_are_continuous_with_parallel_ones():
    a = randn((64,), 1)
    for gap in (1e-2, 1e-4, 1e-6, 1e-8):
        b = (a + gap * randn((64,), 2)).astype(np.float32)
        np.testing.assert_allclose(slerp(0.25, a, b), 0.75 * a + 0.25 * b, rtol=0, atol=1e-6 + gap**2)


@pytest.mark.parametrize("strength", [-0.01, 1.01, math.nan])
def test_a_strength_outside_is_refused(strength):
    noise = randn((4, 8, 8), 1)
    with pytest.raises(RequestError, match=f"variation strength: got {strength}, expected 0 to 1"):
        varied(noise, noise, strength)


def test_noise_of_another_shape_is_refused():
    with pytest.raises(RequestError, match=r"same shape: got \(4, 8, 8\) and \(4, 1, 8\)"):
        varied(randn((4, 8, 8), 1), randn((4, 1, 8), 2), 0.5)
