"""Samplers against k-diffusion's, in float64 on two closed-form models: kdiffusion.json says what its entries mean.

Three things differ on purpose, and are named where they come up: the last steps of "dpmpp_2m", the midpoints of the
"dpm2" family, and single steps down to 0, at which two of k-diffusion's samplers fail.
"""

import itertools
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from latentrt.sampling.grids import Grid
from latentrt.sampling.samplers import SAMPLERS
from latentrt.sampling.schedule import signal_scale

GOLDENS = json.loads((Path(__file__).parent / "kdiffusion.json").read_text())
SHAPE, STRIDE = (1, 4, 6, 5), 7
MODELS = {
    "gaussian": lambda y, sigma: (0.25 * y + 0.7 * sigma**2) / (0.25 + sigma**2),
    "two points": lambda y, sigma: np.tanh(y / sigma**2),
}
NAMES = {
    "euler": "euler",
    "heun": "heun",
    "dpm_2": "dpm2",
    "lms": "lms",
    "dpmpp_2m": "dpmpp_2m",
    "euler_ancestral": "euler_a",
    "dpm_2_ancestral": "dpm2_a",
    "dpmpp_2s_ancestral": "dpmpp_2s_a",
    "dpmpp_sde": "dpmpp_sde",
    "dpmpp_2m_sde": "dpmpp_2m_sde",
    "dpmpp_3m_sde": "dpmpp_3m_sde",
}
# Our midpoints are kept apart from the next level by 1e-12 of it; the rest is rounding.
TOLERANCE = {name: 1e-10 if name.startswith(("dpm_2", "dpmpp_2s", "dpmpp_sde")) else 1e-12 for name in NAMES}


def final(case, total_steps=0):
    """Returns where this package's sampler ends in y = x / alpha, with k-diffusion's noise."""
    sampler = SAMPLERS[NAMES[case["sampler"]]]
    options = {name: option.default for name, option in sampler.options.items()}
    options |= {name.removesuffix("_type"): value for name, value in case["options"].items()}
    levels, model = np.array(GOLDENS["sigmas"][case["sigmas"]]), MODELS[case["model"]]
    grid = Grid(np.zeros(len(levels) - 1), levels[:-1], levels[1:], levels[::-1], total_steps=total_steps)
    seeds = itertools.count(1000)

    def noise(sigma, sigma_next):
        return np.random.default_rng(next(seeds)).standard_normal(SHAPE)

    def denoise(x, sigma):
        return model(x / signal_scale(sigma), sigma)

    x = signal_scale(levels[0]) * levels[0] * np.random.default_rng(0).standard_normal(SHAPE)
    *_, (x, _) = partial(sampler.steps, **options)(denoise, x, grid, noise)
    return (x / signal_scale(levels[-1])).flatten()[::STRIDE]


def words(case):
    return " ".join(map(str, [case["sampler"], *case["options"].values(), case["model"], case["sigmas"]]))


def test_every_sampler_of_the_file_has_a_counterpart():
    assert len(GOLDENS["cases"]) == 218
    assert {case["sampler"] for case in GOLDENS["cases"]} == NAMES.keys()


@pytest.mark.parametrize("case", GOLDENS["cases"], ids=words)
def test_result_is_that_of_k_diffusion(case):
    # In a run of under 15 steps "dpmpp_2m" lowers the order of the last ones, as diffusers does and k-diffusion does
    # not. That shows where they end above 0, so the grid claims to be the rest of one that was total_steps out for 15.
    got = final(case, total_steps=15 if case["sampler"] == "dpmpp_2m" else 0)
    np.testing.assert_allclose(got, case["result"], rtol=0, atol=TOLERANCE[case["sampler"]])


def test_dpmpp_2m_lowers_the_order_of_the_last_steps_where_k_diffusion_does_not():
    cases = [case for case in GOLDENS["cases"] if case["sampler"] == "dpmpp_2m"]
    differing = {case["sigmas"] for case in cases if np.abs(final(case) - case["result"]).max() > 1e-6}
    assert differing == {"karras 2 to 0.1", "karras 5 to 0.1"}


@pytest.mark.parametrize("case", GOLDENS["crashes"], ids=words)
def test_a_single_step_down_to_0_at_which_k_diffusion_fails_gives_the_clean_latents(case):
    [top, bottom] = GOLDENS["sigmas"][case["sigmas"]]
    assert bottom == 0
    y = top * np.random.default_rng(0).standard_normal(SHAPE)
    np.testing.assert_allclose(final(case), MODELS[case["model"]](y, top).flatten()[::STRIDE], rtol=1e-12)
