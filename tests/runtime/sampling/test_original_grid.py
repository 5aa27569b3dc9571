"""DDIM and PLMS on the grid of the latent diffusion paper's code, against its update written out here."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from latentrt.bundle.catalog import MODELS
from latentrt.bundle.manifest_json import read
from latentrt.errors import RequestError
from latentrt.request.request import Request
from latentrt.request.schedule import resolve_schedule
from latentrt.sampling.samplers import SAMPLERS
from latentrt.sampling.schedule import NoiseSchedule, sigma_table

SCHEDULE = NoiseSchedule(1000, "scaled_linear", 0.0015, 0.0195, "epsilon", False, "leading", 1, "first")
ALPHAS = np.cumprod(1 - np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2)  # cumulative, of the signal's variance
ADAMS = {1: [1], 2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}


@pytest.fixture(scope="module")
def manifest():
    return read((MODELS / "emoji" / "bundle.json").read_bytes())


def noise_at(x, timestep):
    """A model: what it predicts depends on the latents and on the timestep."""
    return np.tanh(x) * np.cos(timestep / 300) + 0.1


def taken(x, noise, now, after, eta=0.0, drawn=0.0):
    """One update of DDIM, Song et al. (2021), eq. 12."""
    sigma = eta * np.sqrt((1 - after) / (1 - now) * (1 - now / after))
    clean = (x - np.sqrt(1 - now) * noise) / np.sqrt(now)
    return np.sqrt(after) * clean + np.sqrt(1 - after - sigma**2) * noise + sigma * drawn


def original(x, asked, *, multistep, eta=0.0, noises=()):
    """The paper's loop: timesteps are every (1000 // asked)th, plus one."""
    times = [time + 1 for time in range(0, 1000, 1000 // asked)]
    after = [ALPHAS[0], *ALPHAS[times[:-1]]]
    slopes: list[np.ndarray] = []
    for i in reversed(range(len(times))):
        noise = noise_at(x, times[i])
        slopes = [noise, *slopes][:4]
        if multistep and len(slopes) == 1:
            tried = taken(x, noise, ALPHAS[times[i]], after[i])
            mean = (noise + noise_at(tried, times[max(i - 1, 0)])) / 2
        else:
            weights = ADAMS[len(slopes) if multistep else 1]
            mean = sum(weight * slope for weight, slope in zip(weights, slopes, strict=False))
        x = taken(x, mean, ALPHAS[times[i]], after[i], eta, noises[len(times) - 1 - i] if eta else 0.0)
    return x, len(times)


def ours(x, asked, sampler, noises=(), **options):
    """The same by the sampler."""
    grid = SAMPLERS[sampler].grid(SCHEDULE, asked, "compvis", "normal")
    timestep_of = dict(zip(grid.sigmas, grid.timesteps, strict=True))

    def denoise(x, sigma):
        return x * np.sqrt(1 + sigma**2) - sigma * noise_at(x, timestep_of[sigma])

    drawn = iter(noises)
    *_, (last, _) = SAMPLERS[sampler].steps(denoise, x, grid, lambda *_: next(drawn), **options)
    return last, len(grid.timesteps)


ASKED = (2, 15, 20, 60, 400, 500)


# PLMS of one step is left out: there the original tries timestep 1 twice, where diffusers and latentrt take it once.
@pytest.mark.parametrize(
    ("sampler", "multistep", "asked"),
    [*product(("ddim",), (False,), (1, *ASKED)), *product(("pndm",), (True,), ASKED)],
)
def test_latents_and_number_of_steps_are_the_original_ones(sampler, multistep, asked):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 6))
    wanted, length = original(x, asked, multistep=multistep)
    got, steps = ours(x, asked, sampler, **({} if multistep else {"eta": 0.0}))
    assert steps == length
    np.testing.assert_allclose(got, wanted, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("asked", [15, 20])
def test_noise_of_eta_is_the_original_one(asked):
    x, *noises = np.random.default_rng(1).normal(size=(30, 1, 3, 4, 6))
    wanted, _ = original(x, asked, multistep=False, eta=1.0, noises=noises)
    got, _ = ours(x, asked, "ddim", noises, eta=1.0)
    np.testing.assert_allclose(got, wanted, rtol=1e-7, atol=1e-7)


def test_a_request_runs_the_steps_of_the_original(manifest):
    schedule = resolve_schedule(Request("", sampler="ddim", steps=15, spacing="compvis"), manifest)
    assert (schedule.steps, schedule.length) == (15, 16)
    assert "original_steps" not in schedule.record()
    assert schedule.of_steps(400, 1000).length == 500


@pytest.mark.parametrize(
    ("request_fields", "message"),
    [
        ({"steps": 9}, "steps: got 9 with compvis spacing.*nearest that fit are 8 and 10"),
        ({"steps": 1000}, "499 and 500"),
        ({"sampler": "euler"}, "spacing: got compvis with euler, expected it with ddim or pndm"),
        ({"sigmas": "karras"}, "spacing: got compvis with the sigmas 'karras', expected normal"),
    ],
)
def test_what_the_original_has_no_grid_for_is_refused(manifest, request_fields, message):
    known = replace(Request("", sampler="ddim", spacing="compvis"), **request_fields)
    with pytest.raises(RequestError, match=message):
        resolve_schedule(known, manifest)


def test_every_number_of_steps_is_the_original_grid_or_refused():
    table = sigma_table(SCHEDULE, clamped=False)
    for asked in range(1, 1001):
        times = [time + 1 for time in range(0, 1000, 1000 // asked)]
        if times[-1] < 1000:
            grid = SAMPLERS["ddim"].grid(SCHEDULE, asked, "compvis", "normal")
            assert grid.timesteps.tolist() == times[::-1]
            assert grid.sigmas_next[-1] == table[0]
        else:
            with pytest.raises(RequestError, match="goes beyond"):
                SAMPLERS["ddim"].grid(SCHEDULE, asked, "compvis", "normal")
