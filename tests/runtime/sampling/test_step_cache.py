"""Full calls of a run, and the values that they leave: DeepCache's rule, with the last call full."""

from itertools import pairwise

import numpy as np
import pytest

from latentrt.request.schedule import ScheduleSpec
from latentrt.sampling.calls import walk
from latentrt.sampling.samplers import SAMPLERS
from latentrt.sampling.schedule import NoiseSchedule
from latentrt.sampling.step_cache import History, full_calls

NOISE = NoiseSchedule(1000, "scaled_linear", 0.00085, 0.012, "epsilon", False, "leading", 1, "one")


def calls_of(name, steps, spacing="trailing", **options):
    known = {key: one.default for key, one in SAMPLERS[name].options.items()}
    spec = ScheduleSpec(name, steps, "normal", spacing, known | options)
    return walk(spec.sampler_steps, spec.grid(NOISE))


@pytest.mark.parametrize("every", range(1, 8))
@pytest.mark.parametrize("calls", range(1, 23))
def test_on_an_even_grid_full_calls_are_evenly_spaced_and_the_last_is_one(calls, every):
    found = sorted(full_calls([999 - 40 * call for call in range(calls)], every))
    gaps = {after - before for before, after in pairwise(found[:-1])}
    assert len(found) == len({*range(0, calls, every), calls - 1})
    assert (found[0], found[-1]) == (0, calls - 1)
    assert len(gaps) <= 1
    assert max(gaps, default=1) <= every


@pytest.mark.parametrize(("calls", "every"), [(20, 2), (20, 3), (20, 4), (20, 5), (50, 5)])
def test_at_usual_numbers_of_steps_these_are_every_nth_and_the_last(calls, every):
    assert full_calls([999 - 19 * call for call in range(calls)], every) == {*range(0, calls, every), calls - 1}


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 20, 50])
@pytest.mark.parametrize("every", [2, 3, 5])
@pytest.mark.parametrize("name", ["ddim", "heun", "dpmpp_2m", "dpm2", "unipc", "euler_a", "lcm"])
def test_as_many_calls_are_full_as_by_counting(name, every, steps):
    timesteps = calls_of(name, steps).timesteps
    found = full_calls(timesteps, every)
    assert len(found) == len({*range(0, len(timesteps), every), len(timesteps) - 1})
    assert {0, len(timesteps) - 1} <= found <= {*range(len(timesteps))}


def test_calls_are_placed_by_time_where_a_grid_spends_its_calls_at_one_level():
    timesteps = [999, 999, 998, 998, 997, 995, 990, 900, 700, 400, 100, 0]
    assert full_calls(timesteps, 2) == {0, 6, 7, 8, 9, 10, 11}


def test_of_heuns_two_calls_at_a_level_the_first_is_full():
    levels = [999, 899, *(level for level in range(799, 0, -100) for _ in range(2))]
    assert full_calls(levels, 2) == {*range(0, 18, 2), 17}


def test_a_walk_tells_of_noise_that_is_drawn():
    assert calls_of("ddim", 5, eta=0.5).draws_noise
    assert calls_of("euler_a", 5).draws_noise
    assert not calls_of("ddim", 5, eta=0.0).draws_noise
    assert not calls_of("dpmpp_2m", 5).draws_noise


def test_a_history_repeats_or_extrapolates():
    first, second = np.array([1, 5], np.float16), np.array([3, 4], np.float16)
    repeated, extrapolated = History(0), History(1)
    for history in (repeated, extrapolated):
        history.keep("row", 900.0, first)
        np.testing.assert_array_equal(history.at("row", 800.0), first)
        history.keep("row", 700.0, second)
    np.testing.assert_array_equal(repeated.at("row", 600.0), second)
    np.testing.assert_array_equal(extrapolated.at("row", 600.0), [4, 3.5])  # half of the last distance further
    assert extrapolated.at("row", 600.0).dtype == np.float16


def test_a_second_value_at_a_timestep_replaces_the_first():
    history = History(1)
    for time, value in ((900.0, 1.0), (800.0, 2.0), (800.0, 4.0)):
        history.keep("row", time, np.array([value], np.float32))
    assert history.at("row", 700.0) == 7
