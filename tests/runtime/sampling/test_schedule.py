import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latentrt.sampling.schedule import (
    NoiseSchedule,
    alphas_squared,
    flow_sigmas,
    flow_times,
    noise_scale,
    sigma_at,
    sigma_table,
    signal_scale,
    timestep_at,
)

STABLE = NoiseSchedule(1000, "scaled_linear", 0.00085, 0.012, "epsilon", False, "leading", 1, "one")
SCHEDULES = {
    "linear": replace(STABLE, beta_schedule="linear", beta_start=0.0001, beta_end=0.02),
    "scaled_linear": STABLE,
    "squaredcos_cap_v2": replace(STABLE, beta_schedule="squaredcos_cap_v2", beta_start=0.0001, beta_end=0.02),
    "scaled_linear zero": replace(STABLE, zero_terminal_snr=True),
}

# Made by make_goldens.py with diffusers, in float32.
GOLDENS = json.loads((Path(__file__).parent / "noise_schedules.json").read_text())["alphas_cumprod"]


@pytest.mark.parametrize("name", SCHEDULES)
def test_alphas_are_those_of_diffusers(name):
    products = alphas_squared(SCHEDULES[name])
    golden = {int(place): value for place, value in GOLDENS[name].items()}
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


def test_timestep_at_inverts_the_table_and_holds_its_ends():
    table = sigma_table(STABLE, clamped=True)
    np.testing.assert_allclose(timestep_at(table[[0, 17, 500, 999]], table), [0, 17, 500, 999], atol=1e-9)
    assert timestep_at(np.array([1e-6, 1e6]), table).tolist() == [0, 999]


def test_sigma_at_is_the_inverse_of_timestep_at():
    table = sigma_table(STABLE, clamped=True)
    times = np.array([0.0, 0.25, 17.5, 500.0, 998.9, 999.0])
    np.testing.assert_allclose(timestep_at(sigma_at(times, table), table), times, atol=1e-9)
    assert sigma_at(np.array([17.5]), table) == pytest.approx(math.sqrt(table[17] * table[18]))


@pytest.mark.parametrize("sigma", [0.0, 1e-3, 1.0, 14.6, 4096.0, math.inf])
def test_shares_of_signal_and_noise_are_of_unit_variance(sigma):
    assert signal_scale(sigma) ** 2 + noise_scale(sigma) ** 2 == pytest.approx(1)
    assert noise_scale(sigma) == pytest.approx(sigma * signal_scale(sigma) if math.isfinite(sigma) else 1.0)


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_shifted_times_of_a_flow_model(shift):
    # Esser et al. (2024), section 5.3.2: the shift multiplies the ratio of noise to signal.
    times = np.array([0.001, 0.25, 0.5, 0.999])
    shares = flow_times(replace(STABLE, shift=shift), times)
    np.testing.assert_allclose(flow_sigmas(shares), shift * flow_sigmas(times), rtol=1e-9)
    assert flow_times(replace(STABLE, shift=shift), np.array([0.0, 1.0])).tolist() == [0, 1]
    assert flow_sigmas(np.array([0.0, 0.5, 1.0])).tolist() == [0, 1, math.inf]
