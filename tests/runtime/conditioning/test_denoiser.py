"""What the UNet is fed: how often, at which timestep, and in which frame; every sampler through a whole run."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from latentrt.errors import RequestError
from latentrt.request.request import Request
from latentrt.sampling.calls import walk
from latentrt.sampling.grids import Grid
from latentrt.sampling.prediction import PREDICTIONS
from latentrt.sampling.samplers import SAMPLERS
from latentrt.sampling.schedule import PURE_NOISE, noise_scale, signal_scale
from tests.runtime.fake import SMALL, latents_of, named, pipeline_of, predictions

DIFFUSION = [name for name, sampler in SAMPLERS.items() if not sampler.flow]
FLOW = [name for name, sampler in SAMPLERS.items() if sampler.flow]
EULER_FROM_PURE_NOISE = ("heun", "dpm2", "dpm2_a", "pndm")  # a slope in sigma means nothing there
STEPS = [1, 2, 5]


def timesteps(calls):
    """The timestep of each call of the UNet, from the bias that it was fed: the fake one is a thousandth of it."""
    got = [feed["time_bias"] for feed in named(calls, "unet")]
    assert all(np.ptp(bias) == 0 for bias in got)
    return [1000 * float(bias[0, 0]) for bias in got]


def expected_timesteps(sampler, steps, grid):
    """The timestep of every call, spelled out: those of the grid, and what goes before the end of a step."""
    where = dict(zip(grid.sigmas.tolist(), grid.timesteps.tolist(), strict=True))
    times = []
    for i, step in enumerate(steps):
        times.append(step.timestep)
        sigma_next = float(grid.sigmas_next[i])
        if step.sigma >= PURE_NOISE and sampler in EULER_FROM_PURE_NOISE:
            continue
        if sampler in ("heun", "flow_heun") and sigma_next:
            times.append(where[sigma_next])
        elif sampler == "pndm" and i == 0 and len(steps) > 1:
            times.append(steps[1].timestep)
        elif sampler in ("dpm2", "dpmpp_sde") and sigma_next:
            times.append(between(step.sigma, sigma_next, grid.table))
        elif sampler in ("dpm2_a", "dpmpp_2s_a") and sigma_next:  # eta 1 keeps noise of lower^2 / sigma
            times.append(between(step.sigma, sigma_next**2 / step.sigma, grid.table))
    return times


def between(sigma, sigma_next, table):
    """The timestep halfway in log sigma."""
    middle = (math.log(sigma) + math.log(sigma_next)) / 2
    return float(np.interp(middle, np.log(table), np.arange(len(table))))


def calls_of(sampler, steps, *, from_pure_noise=False):
    if from_pure_noise and steps > 1 and sampler in EULER_FROM_PURE_NOISE:
        return 1 + calls_of(sampler, steps - 1) - (sampler == "pndm" and steps > 2)
    if sampler in ("heun", "flow_heun", "dpm2", "dpm2_a", "dpmpp_2s_a", "dpmpp_sde"):
        return 2 * steps - 1
    return steps + (sampler == "pndm" and steps > 1)


@pytest.mark.parametrize("pure", [False, True])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("sampler", DIFFUSION)
def test_every_sampler_calls_the_model_so_often_and_at_these_timesteps(bundle, calls, sampler, steps, pure):
    fake = pipeline_of(bundle, calls, zero_terminal_snr=pure)
    done = list(fake.steps(Request("a", steps=steps, sampler=sampler, guidance=4.0, seed=0, **SMALL)))
    schedule = fake.bundle.manifest.schedule
    grid = SAMPLERS[sampler].grid(schedule, steps, schedule.spacing, "normal")
    got = timesteps(calls)
    assert len(got) == calls_of(sampler, steps, from_pure_noise=pure)
    assert got == pytest.approx(expected_timesteps(sampler, done, grid), rel=1e-6, abs=1e-3)
    assert len(named(calls, "time_bias")) == 1
    assert all(np.isfinite(step.latents).all() and step.latents.dtype == np.float32 for step in done)


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
@pytest.mark.parametrize("sigmas", ["normal", "karras", "sgm_uniform", (14.6, 7.0, 3.0, 1.0, 0.5)])
@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpm2_a", "dpmpp_2m"])
def test_on_every_grid_too(fake, calls, sampler, sigmas, spacing):
    options = {"sampler": sampler, "sigmas": sigmas, "spacing": spacing, **SMALL}
    done = list(fake.steps(Request("a", steps=5, guidance=1.0, seed=0, **options)))
    grid = SAMPLERS[sampler].grid(fake.bundle.manifest.schedule, 5, spacing, sigmas)
    expected = expected_timesteps(sampler, done, grid)
    assert timesteps(calls) == pytest.approx(expected, rel=1e-6, abs=1e-3)


def test_listed_sigmas_are_the_levels_of_the_steps(fake):
    done = list(fake.steps(Request("a", sigmas=(14.6, 7.0, 3.0, 1.0), sampler="euler", **SMALL)))
    assert [step.sigma for step in done] == [14.6, 7.0, 3.0, 1.0]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("sampler", FLOW)
def test_every_sampler_of_flow_models_too(bundle, calls, sampler, steps):
    pipeline = pipeline_of(bundle, calls, prediction="flow_prediction")
    done = list(pipeline.steps(Request("a", steps=steps, sampler=sampler, guidance=4.0, seed=0, batch=2, **SMALL)))
    grid = SAMPLERS[sampler].grid(pipeline.bundle.manifest.schedule, steps, "trailing", "normal")
    got = timesteps(calls)
    assert len(got) == calls_of(sampler, steps)
    assert got == pytest.approx(expected_timesteps(sampler, done, grid), rel=1e-6, abs=1e-3)
    assert all(np.isfinite(step.latents).all() and step.latents.dtype == np.float32 for step in done)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_euler_in_the_frame_of_the_model_by_hand(bundle, calls, shift):
    """z = (1 - t) x0 + t noise; Euler's method on dz/dt, which is what the model predicts: Liu et al. (2023)."""
    pipeline = pipeline_of(bundle, calls, prediction="flow_prediction", shift=shift)
    final = latents_of(pipeline, Request("a", steps=4, guidance=1.0, seed=0, **SMALL))[-1]
    times = [t / 1000 for t in timesteps(calls)]
    assert times[0] == 1
    even = np.linspace(1, shift * 0.001 / (1 + (shift - 1) * 0.001), 4)
    np.testing.assert_allclose(times, shift * even / (1 + (shift - 1) * even), rtol=1e-6)
    z = named(calls, "unet")[0]["sample"]
    for t, sigma_next, feed, velocity in zip(
        times, [*times[1:], 0], named(calls, "unet"), predictions(calls), strict=True
    ):
        np.testing.assert_allclose(feed["sample"], z, rtol=1e-5, atol=1e-5)
        z = z + (sigma_next - t) * velocity
    np.testing.assert_allclose(final, z, rtol=1e-5, atol=1e-5)


def test_flow_heun_in_the_frame_of_the_model_by_hand(bundle, calls):
    pipeline = pipeline_of(bundle, calls, prediction="flow_prediction")
    final = latents_of(pipeline, Request("a", sampler="flow_heun", steps=3, guidance=1.0, seed=0, **SMALL))[-1]
    times, feeds, velocities = timesteps(calls), [f["sample"] for f in named(calls, "unet")], predictions(calls)
    z = feeds[0]
    for first in (0, 2):
        height = (times[first + 1] - times[first]) / 1000
        np.testing.assert_allclose(feeds[first], z, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(feeds[first + 1], z + height * velocities[first], rtol=1e-5, atol=1e-5)
        z = z + height / 2 * (velocities[first] + velocities[first + 1])
    np.testing.assert_allclose(final, z - times[4] / 1000 * velocities[4], rtol=1e-5, atol=1e-5)


def test_noise_levels_above_one_are_not_for_flow_models(bundle):
    pipeline = pipeline_of(bundle, [], prediction="flow_prediction")
    with pytest.raises(RequestError, match="^sigmas: got .* expected levels up to 1 for a flow model"):
        pipeline.steps(Request("a", sigmas=(3.0, 1.0)))
    shares = [step.timestep for step in pipeline.steps(Request("a", sigmas=(1.0, 0.6, 0.2), **SMALL))]
    assert shares == pytest.approx([1000, 600, 200])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_denoised_latents_are_what_the_prediction_says(bundle, calls, prediction):
    schedule = {"prediction": prediction, "zero_terminal_snr": False}
    pipeline = pipeline_of(bundle, calls, **schedule)
    done = list(pipeline.steps(Request("a", steps=3, guidance=1.0, seed=0, **SMALL)))
    for step, feed, answer in zip(done, named(calls, "unet"), predictions(calls), strict=True):
        a, s, x = signal_scale(step.sigma), noise_scale(step.sigma), feed["sample"]
        expected = {"epsilon": (x - s * answer) / a, "v_prediction": a * x - s * answer, "sample": answer}
        np.testing.assert_allclose(step.denoised, expected[prediction], rtol=1e-4, atol=1e-4)


def test_what_a_flow_model_takes_at_any_level():
    scale = PREDICTIONS["flow_prediction"].scale
    for t in (0.001, 0.3, 0.5, 0.9):
        sigma = t / (1 - t)
        assert scale(sigma) == pytest.approx(math.hypot(1 - t, t))
    assert scale(math.inf) == 1.0
    assert [PREDICTIONS[name].scale(2.0) for name in ("epsilon", "v_prediction", "sample")] == [1.0] * 3


def test_a_level_that_no_step_has_is_read_off_the_table():
    table = np.geomspace(0.1, 10, 11)
    grid = Grid(np.array([9.7, 3.0]), np.array([8.0, 1.0]), np.array([1.0, 0.0]), table)

    def sampler(denoise, x, grid, _noise):
        for sigma in (8.0, 2.0, 1.0, 8.0):
            yield denoise(x, sigma), x

    times = walk(sampler, grid).levels
    assert list(times) == [8.0, 2.0, 1.0]
    assert times[8.0] == 9.7 and times[1.0] == 3.0
    assert times[2.0] == pytest.approx(10 * math.log(2.0 / 0.1) / math.log(100))


def test_the_model_is_fed_the_latents_of_the_step_before(fake, calls):
    """In a sampler of one call a step without scaling, and the noise at first."""
    steps = list(fake.steps(Request("a", steps=4, guidance=4.0, seed=0, batch=2, sampler="euler_a", **SMALL)))
    for before, feed in zip(steps, itertools.islice(named(calls, "unet"), 1, None), strict=False):
        np.testing.assert_array_equal(feed["sample"], np.concatenate([before.latents] * 2))


@pytest.mark.parametrize("sampler", DIFFUSION)
def test_every_sampler_draws_with_the_model(emoji, sampler):
    """That the picture is one is for the eye; here, that the real graphs take what every sampler feeds them."""
    options = {"steps": 2, "seed": 0, "width": 32, "height": 32, "guidance": 2.0}
    [image] = emoji.generate("a red apple", sampler=sampler, **options).images
    assert image.size == (32, 32) and np.ptp(np.asarray(image)) > 50


def test_a_graph_of_float16_is_fed_float16_and_the_sampler_float32(bundle, calls):
    components = dict(bundle.manifest.components)
    unet = components["unet"]
    components["unet"] = replace(unet, inputs=tuple(replace(spec, dtype="float16") for spec in unet.inputs))
    pipeline = pipeline_of(replace(bundle, manifest=replace(bundle.manifest, components=components)), calls)
    latents = latents_of(pipeline, Request("a", steps=2, guidance=4.0, seed=0, batch=2, **SMALL))
    assert latents.dtype == np.float32
    assert {feed.dtype for feeds in named(calls, "unet") for feed in feeds.values()} == {np.dtype(np.float16)}
