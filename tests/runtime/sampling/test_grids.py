"""The grids that samplers use: how each is made, and where it starts and ends; tests/parity has diffusers'."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latentrt.errors import RequestError
from latentrt.sampling.curves import CURVES
from latentrt.sampling.grids import Grid, timestep_spacing
from latentrt.sampling.samplers import SAMPLERS
from latentrt.sampling.schedule import NoiseSchedule, noise_scale, sigma_table

STABLE = NoiseSchedule(1000, "scaled_linear", 0.00085, 0.012, "epsilon", False, "leading", 1, "one")
ZERO = replace(STABLE, zero_terminal_snr=True)
FLOW = replace(STABLE, prediction="flow_prediction")
TABLE = sigma_table(STABLE, clamped=False)
SPACINGS = ("leading", "trailing", "linspace")
FLOWS = ("flow_euler", "flow_heun")
NOISY = sorted(SAMPLERS.keys() - set(FLOWS))  # the models of which know betas
DISTILLED = ("lcm", "tcd")
BESIDE = ("ddim", "pndm")  # of these, a step may end a little beside where the next one starts
ABOVE_ZERO = ("deis", "tcd")
INFINITE = ("ddim", "ddpm", "lcm", "tcd")  # see pure noise as what it is; others make 4096 of it
STEPS = (1, 2, 5, 20, 50, 999, 1000)

# Made by make_goldens.py with diffusers, in float32.
GOLDENS = json.loads((Path(__file__).parent / "noise_schedules.json").read_text())["grids"]


def grid_of(name, steps, spacing="trailing", sigmas="normal", schedule=STABLE):
    return SAMPLERS[name].grid(FLOW if name in FLOWS else schedule, steps, spacing, sigmas)


def few(name):
    """Returns the numbers of steps that a sampler takes."""
    return [steps for steps in STEPS if name not in DISTILLED or steps <= 50]


@pytest.mark.parametrize("key", GOLDENS)
def test_grid_is_that_of_diffusers(key):
    sampler, sigmas, spacing, terminal, steps = key.split()
    golden = GOLDENS[key]
    grid = grid_of(sampler, int(steps), spacing, sigmas, ZERO if terminal == "zero" else STABLE)
    # Karras timesteps are computed from sigmas, of which diffusers has 7 digits; elsewhere they are exact.
    np.testing.assert_allclose(grid.timesteps, golden["timesteps"], rtol=1e-7, atol=5e-3 if sigmas == "karras" else 0)
    if sampler != "ddim":
        np.testing.assert_allclose(grid.sigmas, golden["sigmas"][:-1], rtol=5e-4)
        assert grid.sigmas_next[-1] == golden["sigmas"][-1] == 0


@pytest.mark.parametrize("schedule", [STABLE, ZERO, replace(ZERO, last_alpha="first")], ids=["plain", "zero", "first"])
@pytest.mark.parametrize(("sampler", "spacing"), list(itertools.product(NOISY, SPACINGS)))
def test_every_grid_is_whole(schedule, sampler, spacing):
    for steps, sigmas in itertools.product(few(sampler), ("normal", "karras")):
        grid = grid_of(sampler, steps, spacing, sigmas, schedule)
        assert grid.timesteps.shape == grid.sigmas.shape == grid.sigmas_next.shape == (steps,)
        assert grid.timesteps.dtype == grid.sigmas.dtype == grid.sigmas_next.dtype == np.float64
        assert grid.total_steps == steps
        assert grid.timesteps.min() >= 0
        assert grid.timesteps.max() <= 999
        assert (grid.sigmas_next <= grid.sigmas).all()
        assert (grid.sigmas_next >= 0).all()
        infinite = np.flatnonzero(np.isinf(grid.sigmas)).tolist()
        if sampler in INFINITE and sigmas == "normal" and schedule.zero_terminal_snr:
            assert infinite == np.flatnonzero(grid.timesteps == 999).tolist()
        else:
            assert infinite == []
        assert 0 < grid.start <= 1


@pytest.mark.parametrize(("sampler", "spacing"), list(itertools.product(NOISY, SPACINGS)))
def test_grid_goes_down(sampler, spacing):
    for steps, sigmas in itertools.product((1, 2, 5, 20, 50), ("normal", *CURVES, (14.0, 5.0, 0.2))):
        grid = grid_of(sampler, 3 if isinstance(sigmas, tuple) else steps, spacing, sigmas)
        assert (np.diff(grid.sigmas) < 0).all()
        assert (np.diff(grid.timesteps) <= 0).all()
        if sampler not in BESIDE or sigmas != "normal":
            np.testing.assert_array_equal(grid.sigmas_next[:-1], grid.sigmas[1:])
            end = min(grid.sigmas[-1], grid.table[0]) if sampler in ABOVE_ZERO else 0
            assert grid.sigmas_next[-1] == pytest.approx(end, rel=1e-9)


@pytest.mark.parametrize("sampler", NOISY)
def test_levels_are_those_of_their_timesteps(sampler):
    # Curves draw levels first; their timesteps are those that the table has for them, rounded or cut by some solvers.
    for spacing, sigmas in itertools.product(SPACINGS, ("normal", "karras", "exponential", "beta", "sgm_uniform")):
        grid = grid_of(sampler, 20, spacing, sigmas)
        times = np.interp(np.log(grid.sigmas), np.log(TABLE), np.arange(1000.0))
        np.testing.assert_allclose(grid.timesteps, times, atol=0.02 if sigmas == "normal" else 1.001)


@pytest.mark.parametrize("sampler", NOISY)
def test_a_list_of_levels_is_walked_as_it_is(sampler):
    levels = (14.0, 5.0, 0.2)
    for spacing in SPACINGS:
        grid = grid_of(sampler, 3, spacing, levels)
        assert tuple(grid.sigmas) == levels
        assert grid.sigmas_next[-1] == (TABLE[0] if sampler in ABOVE_ZERO else 0)


@pytest.mark.parametrize("sampler", NOISY)
def test_trailing_starts_at_pure_noise(sampler):
    for steps in few(sampler):
        grid = grid_of(sampler, steps, "trailing", schedule=ZERO)
        assert grid.timesteps[0] == 999
        assert grid.sigmas[0] == (math.inf if sampler in INFINITE else pytest.approx(4096, rel=1e-6))


@pytest.mark.parametrize("sampler", BESIDE)
@pytest.mark.parametrize(("last", "expected"), [("one", 0.0), ("first", TABLE[0])])
def test_ddim_ends_where_the_schedule_says(sampler, last, expected):
    grid = grid_of(sampler, 20, "leading", schedule=replace(STABLE, last_alpha=last))
    assert grid.timesteps[-1] == 1
    assert grid.sigmas_next[-1] == expected


def test_steps_of_ddim_go_down_by_a_fixed_number_of_timesteps():
    # In linspace these are not where the next one starts.
    grid = grid_of("ddim", 20, "linspace")
    np.testing.assert_array_equal(grid.sigmas_next[:-1], TABLE[grid.timesteps[:-1].astype(int) - 50])
    assert (grid.sigmas_next[:-1] != grid.sigmas[1:]).any()


def test_spacings_by_hand():
    # Lin et al. (2023), table 2, for 10 of 1000 steps; the offset of 1 is Stable Diffusion's.
    assert timestep_spacing(STABLE, 10, "leading").tolist() == list(range(901, 0, -100))
    assert timestep_spacing(STABLE, 10, "trailing").tolist() == list(range(999, 0, -100))
    assert timestep_spacing(STABLE, 10, "linspace").tolist() == [111.0 * k for k in range(9, -1, -1)]
    assert timestep_spacing(STABLE, 1, "linspace").tolist() == [0]
    # One point more for DPM-Solver, the lowest of which is left out.
    assert timestep_spacing(STABLE, 9, "leading", extra=1).tolist() == list(range(901, 100, -100))
    assert timestep_spacing(STABLE, 9, "linspace", extra=1).tolist() == [111.0 * k for k in range(9, 0, -1)]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(1, [999]), (2, [999, 499]), (4, [999, 759, 499, 259]), (8, [999, 879, 759, 639, 499, 379, 259, 139])],
)
@pytest.mark.parametrize("sampler", DISTILLED)
def test_consistency_models_are_called_at_the_timesteps_that_they_are_distilled_at(sampler, steps, expected):
    # Fifty of them, 999, 979 ... 19, of which every 50 / steps-th is taken, cut to a whole number.
    for spacing in SPACINGS:
        grid = grid_of(sampler, steps, spacing)
        assert grid.timesteps.tolist() == expected
        np.testing.assert_array_equal(grid.sigmas, TABLE[expected])


@pytest.mark.parametrize("sampler", DISTILLED)
def test_more_steps_than_a_consistency_model_is_distilled_at_are_refused(sampler):
    assert grid_of(sampler, 50).timesteps.tolist() == list(range(999, 0, -20))
    with pytest.raises(RequestError, match="steps: got 51, expected at most 50"):
        grid_of(sampler, 51)
    assert len(grid_of(sampler, 60, sigmas="karras").sigmas) == 60  # a curve asks for levels, not for these timesteps


@pytest.mark.parametrize("sampler", NOISY)
def test_start_is_the_noise_share_in_sigma_spaced_grids_unless_spacing_is_leading(sampler):
    euler_like = {"lms", "euler", "euler_a", "heun", "dpm2", "dpm2_a", "dpmpp_2s_a", "dpmpp_sde"}
    for spacing in SPACINGS:
        grid = grid_of(sampler, 5, spacing)
        scaled = sampler in euler_like and spacing != "leading"
        assert grid.start == (noise_scale(grid.sigmas[0]) if scaled else 1.0)


@pytest.mark.parametrize("sampler", FLOWS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_models_go_down_in_even_times_shifted(sampler, shift):
    for steps in (1, 2, 5, 50, 1000):
        grid = SAMPLERS[sampler].grid(replace(FLOW, shift=shift), steps, "leading", "normal")
        lowest = shift * 0.001 / (1 + (shift - 1) * 0.001)  # shifted already, as in diffusers
        times = [1 - i * (1 - lowest) / max(1, steps - 1) for i in range(steps)]
        shares = [shift * t / (1 + (shift - 1) * t) for t in times]
        np.testing.assert_allclose(grid.timesteps, np.multiply(1000, shares), rtol=1e-12)
        np.testing.assert_allclose(grid.sigmas[1:], [t / (1 - t) for t in shares[1:]], rtol=1e-9)
        assert grid.sigmas[0] == math.inf
        np.testing.assert_array_equal(grid.sigmas_next, [*grid.sigmas[1:], 0])
        assert grid.start == 1


@pytest.mark.parametrize("sampler", FLOWS)
@pytest.mark.parametrize("sigmas", [*sorted(CURVES.keys() - {"ays", "ays_sdxl"}), (1.0, 0.8, 0.1), (0.9, 0.5)], ids=str)
def test_curves_and_lists_for_flow_models_are_of_the_noise_s_share(sampler, sigmas):
    steps = len(sigmas) if isinstance(sigmas, tuple) else 5
    grid = grid_of(sampler, steps, sigmas=sigmas)
    shares = grid.timesteps / 1000
    assert shares[0] == pytest.approx(0.9 if sigmas == (0.9, 0.5) else 1)
    assert (np.diff(shares) < 0).all() and shares[-1] > 0
    np.testing.assert_allclose(grid.sigmas[1:], shares[1:] / (1 - shares[1:]), rtol=1e-9)


@pytest.mark.parametrize("sampler", FLOWS)
@pytest.mark.parametrize("sigmas", ["ays", "ays_sdxl", (14.6, 1.0)], ids=str)
def test_levels_of_other_models_are_refused_for_flow_models(sampler, sigmas):
    with pytest.raises(RequestError, match="expected levels up to 1 for a flow model"):
        grid_of(sampler, 2, sigmas=sigmas)


def test_the_rest_of_a_grid_remembers_how_many_steps_were_laid_out():
    grid = grid_of("euler", 20)
    rest = grid.sliced(15)
    assert (len(rest.sigmas), rest.total_steps, rest.start) == (5, 20, grid.start)
    np.testing.assert_array_equal(rest.sigmas, grid.sigmas[15:])
    np.testing.assert_array_equal(rest.sigmas_next, grid.sigmas_next[15:])
    np.testing.assert_array_equal(rest.timesteps, grid.timesteps[15:])
    assert rest.sliced(2).total_steps == 20
    assert Grid(np.zeros(3), np.arange(3.0), np.zeros(3), np.zeros(3)).total_steps == 3
