"""The named curves of noise levels, against their formulas written out step by step; tests/parity has diffusers'."""

import math

import numpy as np
import pytest

from latentrt.sampling.curves import CURVES, Span, beta_quantile, sigmas_of_curve
from latentrt.sampling.schedule import NoiseSchedule, sigma_table

TABLE = sigma_table(
    NoiseSchedule(1000, "scaled_linear", 0.00085, 0.012, "epsilon", False, "leading", 1, "one"), clamped=True
)
SPAN = Span(14.6, 0.03, TABLE)
STEPS = (1, 2, 3, 10, 20, 37, 50)

# scipy.stats.beta.ppf(p, 0.6, 0.6), scipy 1.17.1; p beside 1/2 and ends because the halves are computed apart.
QUANTILES = {
    0.0: 0.0,
    1e-9: 1.85588246249141e-15,
    0.001: 1.855873851745199e-05,
    0.1: 0.03958440558878085,
    0.25: 0.17568037865269498,
    0.4999: 0.49986127490549975,
    0.5: 0.5,
    0.7: 0.7659829961247643,
    0.95: 0.9874455431263885,
    1.0: 1.0,
}

# Sabour et al. (2024): the levels of ten steps, and the last step's end.
ALIGN_YOUR_STEPS = {
    "ays": [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029],
    "ays_sdxl": [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029],
}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("steps", [*STEPS, 1000])
def test_curves_fall_strictly_above_zero(name, steps):
    levels = sigmas_of_curve(name, SPAN, steps)
    assert levels.shape == (steps,)
    assert levels.dtype == np.float64
    assert (np.diff(levels) < 0).all()
    assert np.isfinite(levels).all() and levels[-1] > 0


@pytest.mark.parametrize("name", ["karras", "exponential", "beta", "kl_optimal"])
def test_curves_that_are_drawn_between_two_levels_end_there(name):
    for steps in STEPS[1:]:
        assert sigmas_of_curve(name, SPAN, steps)[[0, -1]] == pytest.approx([14.6, 0.03], rel=1e-9)
    assert sigmas_of_curve(name, SPAN, 1) == pytest.approx([14.6], rel=1e-9)


@pytest.mark.parametrize("name", ["sgm_uniform", "simple"])
def test_curves_of_the_table_start_at_its_noisy_end_and_stop_above_the_other(name):
    for steps in STEPS:
        levels = sigmas_of_curve(name, SPAN, steps)
        assert levels[0] == pytest.approx(TABLE[-1], rel=1e-12)
        assert levels[-1] > TABLE[0]
    assert len(set(sigmas_of_curve("simple", SPAN, 1000))) == 1000


def test_karras_has_even_steps_in_the_seventh_root():
    # Karras et al. (2022), eq. 5.
    roots = sigmas_of_curve("karras", SPAN, 10) ** (1 / 7)
    np.testing.assert_allclose(np.diff(roots, 2), 0, atol=1e-12)


def test_exponential_has_even_steps_in_the_logarithm():
    np.testing.assert_allclose(np.diff(np.log(sigmas_of_curve("exponential", SPAN, 10)), 2), 0, atol=1e-12)


@pytest.mark.parametrize("steps", STEPS)
def test_beta_stretches_quantiles_over_sigma(steps):
    expected = []
    for i in range(steps):
        quantile = beta_quantile(np.array([1 - i / max(1, steps - 1)]), 0.6)[0]
        expected.append(0.03 + quantile * (14.6 - 0.03))
    np.testing.assert_allclose(sigmas_of_curve("beta", SPAN, steps), expected, rtol=1e-12)


def test_quantiles_of_the_beta_distribution():
    got = beta_quantile(np.array(list(QUANTILES)), 0.6)
    np.testing.assert_allclose(got, list(QUANTILES.values()), rtol=1e-11, atol=1e-15)


def test_quantiles_of_beta_distributions_in_closed_form():
    p = np.linspace(0, 1, 41)
    np.testing.assert_allclose(beta_quantile(p, 1.0), p, atol=1e-12)  # uniform
    np.testing.assert_allclose(beta_quantile(p, 0.5), np.sin(np.pi * p / 2) ** 2, atol=1e-12)  # arcsine
    np.testing.assert_allclose(beta_quantile(p, 0.6) + beta_quantile(1 - p, 0.6), 1, atol=1e-12)


@pytest.mark.parametrize("steps", STEPS)
def test_sgm_uniform_has_even_steps_in_time_and_leaves_out_the_last_level(steps):
    # ComfyUI: timesteps from the noisiest to the least noisy one in `steps` even steps, without the end of the last;
    # between timesteps, the logarithm of sigma is linear.
    expected = []
    for i in range(steps):
        time = 999 - i * 999 / steps
        before = min(math.floor(time), 998)
        share = time - before
        expected.append(math.exp((1 - share) * math.log(TABLE[before]) + share * math.log(TABLE[before + 1])))
    np.testing.assert_allclose(sigmas_of_curve("sgm_uniform", SPAN, steps), expected, rtol=1e-12)


@pytest.mark.parametrize("steps", STEPS)
def test_simple_takes_every_so_manieth_level_from_the_noisy_end(steps):
    # ComfyUI: the place counts from the table's end, 1000 / steps further each time, cut to a whole number.
    expected = [TABLE[-(1 + math.floor(i * 1000 / steps))] for i in range(steps)]
    np.testing.assert_array_equal(sigmas_of_curve("simple", SPAN, steps), expected)


@pytest.mark.parametrize("steps", STEPS)
def test_kl_optimal_has_even_steps_in_the_arctangent(steps):
    # Sabour et al. (2024), theorem 3.1; ComfyUI's ends at the lowest level, before the step to zero.
    expected = []
    for i in range(steps):
        share = i / (steps - 1) if steps > 1 else 0
        expected.append(math.tan(share * math.atan(0.03) + (1 - share) * math.atan(14.6)))
    np.testing.assert_allclose(sigmas_of_curve("kl_optimal", SPAN, steps), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ALIGN_YOUR_STEPS)
def test_align_your_steps_as_published_and_in_between(name):
    published = ALIGN_YOUR_STEPS[name]
    np.testing.assert_allclose(sigmas_of_curve(name, SPAN, 10), published[:-1], rtol=1e-12)
    assert sigmas_of_curve(name, SPAN, 1) == pytest.approx([14.615])
    between = sigmas_of_curve(name, SPAN, 20)
    np.testing.assert_allclose(between[::2], published[:-1], rtol=1e-12)
    roots = [math.sqrt(above * below) for above, below in zip(published, published[1:], strict=False)]
    np.testing.assert_allclose(between[1::2], roots, rtol=1e-12)


def test_levels_that_are_listed_are_taken_as_they_are():
    assert sigmas_of_curve((5.0, 1.0, 0.1), SPAN, 3).tolist() == [5.0, 1.0, 0.1]
