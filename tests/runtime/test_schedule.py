import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latentrt.samplers import SAMPLERS
from latentrt.schedule import NoiseSchedule, alpha, alphas_squared, karras, sigma_table, spaced, spread, timestep_at

STABLE = NoiseSchedule(1000, "scaled_linear", 0.00085, 0.012, "epsilon", False, "leading", 1, "one")
ZERO = replace(STABLE, zero_terminal_snr=True)
SCHEDULES = {
    "linear": replace(STABLE, beta_schedule="linear", beta_start=0.0001, beta_end=0.02),
    "scaled_linear": STABLE,
    "squaredcos_cap_v2": replace(STABLE, beta_schedule="squaredcos_cap_v2", beta_start=0.0001, beta_end=0.02),
    "scaled_linear zero": ZERO,
}
SPACINGS = ("leading", "trailing", "linspace")
SIGMAS = ("normal", "karras")
CHOICES = [(sampler, *rest) for sampler in SAMPLERS for rest in itertools.product(SPACINGS, SIGMAS)]
STEPS = (1, 2, 5, 20, 50, 999, 1000)

# Made by make_goldens.py with diffusers, in float32.
GOLDENS = json.loads((Path(__file__).parent / "noise_schedules.json").read_text())


@pytest.mark.parametrize("name", SCHEDULES)
def test_alphas_are_those_of_diffusers(name):
    products = alphas_squared(SCHEDULES[name])
    golden = {int(place): value for place, value in GOLDENS["alphas_cumprod"][name].items()}
    assert products.shape == (1000,)
    # A thousand float32 products are off by 1e-5 or so; the rescaling to zero takes a difference of small numbers.
    np.testing.assert_allclose(products[list(golden)], list(golden.values()), rtol=5e-5, atol=1e-8)
    assert (np.diff(products) < 0).all()
    assert 0 <= products[-1] < products[0] < 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_sigmas_rise_and_are_infinite_only_at_zero_terminal_snr(name):
    schedule = SCHEDULES[name]
    table, clamped = sigma_table(schedule, clamped=False), sigma_table(schedule, clamped=True)
    assert (np.diff(clamped) > 0).all()
    assert np.isfinite(table[:-1]).all()
    assert np.isfinite(clamped).all()
    assert math.isinf(table[-1]) == schedule.zero_terminal_snr
    np.testing.assert_array_equal(table[:-1], clamped[:-1])
    if schedule.zero_terminal_snr:
        assert clamped[-1] == pytest.approx(4096, rel=1e-6)


@pytest.mark.parametrize("key", GOLDENS["grids"])
def test_grid_is_that_of_diffusers(key):
    sampler, sigmas, spacing, terminal, steps = key.split()
    golden = GOLDENS["grids"][key]
    schedule = ZERO if terminal == "zero" else STABLE
    grid = SAMPLERS[sampler].grid(schedule, int(steps), spacing, sigmas)
    # Karras timesteps are computed from sigmas, of which diffusers has 7 digits; elsewhere they are exact.
    np.testing.assert_allclose(grid.timesteps, golden["timesteps"], rtol=1e-7, atol=5e-3 if sigmas == "karras" else 0)
    if sampler != "ddim":
        np.testing.assert_allclose(grid.sigmas, golden["sigmas"][:-1], rtol=5e-4)
        assert grid.lowers[-1] == golden["sigmas"][-1] == 0


@pytest.mark.parametrize("schedule", [STABLE, ZERO, replace(ZERO, last_alpha="first")], ids=["plain", "zero", "first"])
@pytest.mark.parametrize(("sampler", "spacing", "sigmas"), CHOICES)
def test_every_grid_is_whole(schedule, sampler, spacing, sigmas):
    for steps in STEPS:
        grid = SAMPLERS[sampler].grid(schedule, steps, spacing, sigmas)
        assert grid.timesteps.shape == grid.sigmas.shape == grid.lowers.shape == (steps,)
        assert grid.timesteps.dtype == grid.sigmas.dtype == grid.lowers.dtype == np.float64
        assert np.isfinite(grid.timesteps).all()
        assert np.isfinite(grid.lowers).all()
        # Leading timesteps reach past the table at 1000 steps, by their offset; what reads the table stays inside.
        assert grid.timesteps.min() >= 0
        assert grid.timesteps.max() <= 999 + schedule.steps_offset
        assert (grid.lowers <= grid.sigmas).all()
        assert (grid.lowers >= 0).all()
        infinite = np.flatnonzero(np.isinf(grid.sigmas)).tolist()
        if sampler == "ddim" and sigmas == "normal" and schedule.zero_terminal_snr:
            assert infinite == np.flatnonzero(grid.timesteps == 999).tolist()
        else:
            assert infinite == []
        assert 0 < grid.start <= 1


@pytest.mark.parametrize(("sampler", "spacing", "sigmas"), CHOICES)
def test_grid_goes_down(sampler, spacing, sigmas):
    for steps in (2, 5, 20, 50, 500):
        grid = SAMPLERS[sampler].grid(STABLE, steps, spacing, sigmas)
        assert (np.diff(grid.sigmas) < 0).all()
        assert (np.diff(grid.timesteps) <= 0).all()
        if sampler != "ddim" or sigmas != "normal":
            np.testing.assert_array_equal(grid.lowers[:-1], grid.sigmas[1:])
            assert grid.lowers[-1] == 0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_trailing_starts_at_pure_noise(sampler):
    for steps in STEPS:
        assert SAMPLERS[sampler].grid(ZERO, steps, "trailing", "normal").timesteps[0] == 999


@pytest.mark.parametrize(("last", "expected"), [("one", 0.0), ("first", sigma_table(STABLE, clamped=False)[0])])
def test_ddim_ends_where_the_schedule_says(last, expected):
    grid = SAMPLERS["ddim"].grid(replace(STABLE, last_alpha=last), 20, "leading", "normal")
    assert grid.timesteps[-1] == 1
    assert grid.lowers[-1] == expected


def test_spacings_by_hand():
    # Lin et al. (2023), table 2, for 10 of 1000 steps; the offset of 1 is Stable Diffusion's.
    assert spaced(STABLE, 10, "leading").tolist() == list(range(901, 0, -100))
    assert spaced(STABLE, 10, "trailing").tolist() == list(range(999, 0, -100))
    assert spaced(STABLE, 10, "linspace").tolist() == [111.0 * k for k in range(9, -1, -1)]
    assert spaced(STABLE, 1, "linspace").tolist() == [0]


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_start_is_the_noise_share_unless_spacing_is_leading(sampler):
    for spacing in SPACINGS:
        grid = SAMPLERS[sampler].grid(STABLE, 5, spacing, "normal")
        scaled = sampler == "euler" and spacing != "leading"
        assert grid.start == (spread(grid.sigmas[0]) if scaled else 1.0)


def test_karras_ends():
    assert karras(14.6, 0.03, 1).tolist() == [pytest.approx(14.6)]
    levels = karras(14.6, 0.03, 10)
    assert levels[[0, -1]] == pytest.approx([14.6, 0.03], rel=1e-12)
    # Even steps in the seventh root: Karras et al. (2022), eq. 5.
    np.testing.assert_allclose(np.diff(levels ** (1 / 7), 2), 0, atol=1e-12)


def test_timestep_at_inverts_the_table_and_holds_its_ends():
    table = sigma_table(STABLE, clamped=True)
    np.testing.assert_allclose(timestep_at(table[[0, 17, 500, 999]], table), [0, 17, 500, 999], atol=1e-9)
    assert timestep_at(np.array([1e-6, 1e6]), table).tolist() == [0, 999]


@pytest.mark.parametrize("sigma", [0.0, 1e-3, 1.0, 14.6, 4096.0, math.inf])
def test_shares_of_signal_and_noise_are_of_unit_variance(sigma):
    assert alpha(sigma) ** 2 + spread(sigma) ** 2 == pytest.approx(1)
    assert spread(sigma) == pytest.approx(sigma * alpha(sigma) if math.isfinite(sigma) else 1.0)
