"""Samplers against closed forms: for Gaussian data, x0 ~ N(mu, c^2), the ideal denoiser and the exact path are known.

In the frame y = x / alpha = x0 + sigma * noise, the mean of x0 given y is (c^2 y + sigma^2 mu) / (c^2 + sigma^2), and
along the probability-flow ODE of Karras et al. (2022), eq. 1, (y - mu) / sqrt(c^2 + sigma^2) stays what it is.
"""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from latentrt.prediction import DENOISED
from latentrt.samplers import SAMPLERS, dpmpp_2m, first_order
from latentrt.schedule import Grid, NoiseSchedule, alpha, spread

MU, C = 0.7, 0.5
WALKS = [first_order, dpmpp_2m]
STABLE = NoiseSchedule(1000, "scaled_linear", 0.00085, 0.012, "epsilon", False, "leading", 1, "one")
ZERO = replace(STABLE, zero_terminal_snr=True)


def ideal(x, sigma):
    """Returns the mean of x0 given unit-variance latents, in a form that holds at sigma = inf as well."""
    signal, noise = alpha(sigma), spread(sigma)
    return (C**2 * signal * x + noise**2 * MU) / (C**2 * signal**2 + noise**2)


def exact(x, sigma, lower):
    """Returns where the path through `x` at `sigma` is at `lower`, in unit-variance latents."""
    score = (x - alpha(sigma) * MU) / math.hypot(C * alpha(sigma), spread(sigma))
    return alpha(lower) * MU + math.hypot(C * alpha(lower), spread(lower)) * score


def smooth(steps, highest=10.0, lowest=0.1):
    """Returns a grid with even steps in log sigma."""
    levels = np.geomspace(highest, lowest, steps + 1)
    return Grid(np.zeros(steps), levels[:-1], levels[1:])


def last(walk, x, grid, denoise=ideal):
    *_, (final, _) = walk(denoise, x, grid)
    return final


def noise(batch=1, dtype=np.float32):
    return np.random.default_rng(0).standard_normal((batch, 4, 6, 5)).astype(dtype)


@pytest.mark.parametrize(("walk", "order"), [(first_order, 1), (dpmpp_2m, 2)])
def test_order_of_convergence(walk, order):
    x = noise(dtype=np.float64)
    steps = [40, 80, 160, 320]
    errors = [np.abs(last(walk, x, smooth(n)) - exact(x, 10.0, 0.1)).max() for n in steps]
    slopes = -np.diff(np.log2(errors))
    assert slopes == pytest.approx([order] * 3, abs=0.1)
    assert slopes[-1] == pytest.approx(order, abs=0.03)


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("sigma", [0.3, 14.6, 4096.0])
def test_one_step_to_zero_is_the_denoised_latents(walk, sigma):
    x = noise(dtype=np.float64)
    [(final, denoised)] = walk(ideal, x, Grid(np.zeros(1), np.array([sigma]), np.zeros(1)))
    np.testing.assert_array_equal(denoised, ideal(x, sigma))
    np.testing.assert_allclose(final, denoised, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("walk", WALKS)
def test_one_step_is_the_exact_path_when_the_data_is_a_point(walk):
    x, sigma, lower = noise(dtype=np.float64), 5.0, 0.4
    final = last(walk, x, Grid(np.zeros(1), np.array([sigma]), np.array([lower])), lambda x, sigma: np.full_like(x, MU))
    expected = alpha(lower) * MU + spread(lower) * (x - alpha(sigma) * MU) / spread(sigma)
    np.testing.assert_allclose(final, expected, rtol=1e-12, atol=1e-12)


def test_two_steps_of_first_order_by_hand():
    levels, grid = [3.0, 1.0, 0.5], Grid(np.zeros(2), np.array([3.0, 1.0]), np.array([1.0, 0.5]))
    x = noise(dtype=np.float64)
    y = x / alpha(3.0)
    for sigma, lower in itertools.pairwise(levels):  # Euler's method on dy / dsigma = (y - x0) / sigma
        y = y + (lower - sigma) * (y - ideal(y * alpha(sigma), sigma)) / sigma
    np.testing.assert_allclose(last(first_order, x, grid), alpha(0.5) * y, rtol=1e-12)


def test_two_steps_of_dpmpp_2m_by_hand():
    # Lu et al. (2022), algorithm 2, in their symbols: lambda = -log sigma, r = h_1 / h_2.
    grid = Grid(np.zeros(2), np.array([3.0, 1.0]), np.array([1.0, 0.5]))
    x = noise(dtype=np.float64)
    h1, h2 = math.log(3.0), math.log(2.0)
    d0 = ideal(x, 3.0)
    x1 = spread(1.0) / spread(3.0) * x - alpha(1.0) * math.expm1(-h1) * d0
    d1 = ideal(x1, 1.0)
    r = h1 / h2
    target = (1 + 1 / (2 * r)) * d1 - 1 / (2 * r) * d0
    x2 = spread(0.5) / spread(1.0) * x1 - alpha(0.5) * math.expm1(-h2) * target
    (first, _), (second, denoised) = dpmpp_2m(ideal, x, grid)
    np.testing.assert_allclose(first, x1, rtol=1e-12)
    np.testing.assert_allclose(second, x2, rtol=1e-12)
    np.testing.assert_allclose(denoised, d1, rtol=1e-12)


def test_the_last_step_of_dpmpp_2m_to_zero_is_of_first_order():
    grid = Grid(np.zeros(3), np.array([3.0, 1.0, 0.5]), np.array([1.0, 0.5, 0.0]))
    *_, (final, denoised) = dpmpp_2m(ideal, noise(dtype=np.float64), grid)
    np.testing.assert_allclose(final, denoised, rtol=1e-12)


def test_first_order_starts_from_pure_noise():
    x = noise(dtype=np.float64)
    grid = SAMPLERS["ddim"].grid(ZERO, 500, "trailing", "normal")
    assert math.isinf(grid.sigmas[0])
    final = last(first_order, x, grid)
    np.testing.assert_allclose(final, exact(x, math.inf, 0.0), atol=0.02)
    first, denoised = next(first_order(ideal, x, grid))
    np.testing.assert_allclose(denoised, MU)
    np.testing.assert_allclose(first, alpha(grid.lowers[0]) * MU + spread(grid.lowers[0]) * x)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [999, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_as_many_steps_as_timesteps(name, steps, spacing):
    sampler = SAMPLERS[name]
    grid = sampler.grid(STABLE, steps, spacing, "normal")
    final = last(sampler.walk, noise(), grid)
    assert np.isfinite(final).all()
    if grid.timesteps[0] >= 990:  # leading lays out 1001 points for dpmpp_2m, no two apart
        np.testing.assert_allclose(final, exact(noise(), grid.sigmas[0], 0.0), atol=0.03)


@pytest.mark.parametrize("name", SAMPLERS)
def test_twenty_steps_come_close(name):
    sampler = SAMPLERS[name]
    grid = sampler.grid(STABLE, 20, "trailing", "normal")
    x = (grid.start * noise()).astype(np.float32)
    error = np.abs(last(sampler.walk, x, grid) - exact(x, grid.sigmas[0], 0.0)).max()
    assert error < (0.15 if name == "dpmpp_2m" else 0.25)


@pytest.mark.parametrize("walk", WALKS)
def test_float32_stays_float32_and_the_input_stays_as_it_was(walk):
    x = noise()
    before = x.copy()
    for latents, denoised in walk(ideal, x, smooth(5)):
        assert latents.dtype == denoised.dtype == np.float32
        assert latents.shape == denoised.shape == x.shape
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("prediction", DENOISED)
@pytest.mark.parametrize("sigma", [0.03, 1.0, 14.6])
def test_every_prediction_type_gives_the_same_clean_latents(prediction, sigma):
    x0, eps = noise(), noise()[..., ::-1]
    x = (alpha(sigma) * x0 + spread(sigma) * eps).astype(np.float32)
    predicted = {"epsilon": eps, "v_prediction": alpha(sigma) * eps - spread(sigma) * x0, "sample": x0}[prediction]
    denoised = DENOISED[prediction](x, predicted.astype(np.float32), sigma)
    assert denoised.dtype == np.float32
    np.testing.assert_allclose(denoised, x0, atol=3e-5)


def test_v_and_sample_are_defined_at_pure_noise():
    x, prediction = noise(), noise()[..., ::-1]
    np.testing.assert_array_equal(DENOISED["v_prediction"](x, prediction, math.inf), -prediction)
    np.testing.assert_array_equal(DENOISED["sample"](x, prediction, math.inf), prediction)


@pytest.mark.parametrize("walk", WALKS)
def test_a_run_dropped_midway_leaves_nothing_behind(walk):
    x, grid = noise(), smooth(6)
    expected = last(walk, x, grid)
    dropped = walk(ideal, 3 * x, grid)
    next(dropped), next(dropped)
    np.testing.assert_array_equal(last(walk, x, grid), expected)
    dropped.close()
    np.testing.assert_array_equal(last(walk, x, grid), expected)


@pytest.mark.parametrize("walk", WALKS)
def test_runs_side_by_side_do_not_meet(walk):
    x, grid = noise(), smooth(6)
    pairs = zip(walk(ideal, x, grid), walk(ideal, 3 * x, grid), walk(ideal, x, grid), strict=True)
    for (one, _), (other, _), (again, _) in pairs:
        np.testing.assert_array_equal(one, again)
        assert not np.array_equal(one, other)


@pytest.mark.parametrize("walk", WALKS)
def test_an_image_is_the_same_alone_and_in_a_batch(walk):
    x, grid = noise(3), smooth(6)
    together = last(walk, x, grid)
    for k in range(3):
        np.testing.assert_array_equal(last(walk, x[k : k + 1], grid), together[k : k + 1])


@pytest.mark.parametrize("walk", WALKS)
def test_the_model_is_called_once_a_step_at_the_grid_s_levels(walk):
    grid, seen = smooth(7), []

    def denoise(x, sigma):
        seen.append(sigma)
        return ideal(x, sigma)

    last(walk, noise(), grid, denoise)
    assert seen == grid.sigmas.tolist()
