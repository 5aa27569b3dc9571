"""The noise of a run: an image is the same alone and in a batch, whatever else is asked for."""

import math

import numpy as np
import pytest

from latentrt.request.request import Request
from latentrt.request.settings import resolve
from latentrt.sampling.noise.brownian import BrownianTree
from latentrt.sampling.noise.source import NoiseSource
from latentrt.sampling.noise.torch_cpu import TorchGenerator, randn
from latentrt.sampling.noise.torch_cuda import PhiloxGenerator
from latentrt.sampling.noise.variation import varied
from latentrt.sampling.samplers import SAMPLERS
from latentrt.sampling.schedule import noise_scale, signal_scale
from tests.runtime.fake import SMALL, latents_of, named, pipeline_of, psnr

SHAPE = (4, 2, 3)
STOCHASTIC = [name for name, sampler in SAMPLERS.items() if "eta" in sampler.options] + ["ddpm", "lcm", "tcd"]
BROWNIAN = [name for name, sampler in SAMPLERS.items() if sampler.noise == "brownian"]


def draws(bundle, **options):
    return NoiseSource(resolve(Request("a", **options), bundle.manifest).noise, SHAPE)


def grid(bundle, sampler, steps, sigmas="karras"):
    return SAMPLERS[sampler].grid(bundle.manifest.schedule, steps, "trailing", sigmas)


def options_of(sampler):
    """Options under which the sampler draws noise."""
    return {"eta": 1.0} if sampler == "ddim" else {"gamma": 0.5} if sampler == "tcd" else {}


@pytest.mark.parametrize("seed", [0, 41, 2**64 - 3])
def test_each_image_starts_from_the_noise_of_its_own_seed(fake, calls, seed):
    result = fake.generate("a", steps=1, guidance=1.0, seed=seed, batch=3, **SMALL)
    assert result.seeds == (seed, seed + 1, seed + 2)
    noise = np.stack([randn(SHAPE, seed + k) for k in range(3)])
    np.testing.assert_array_equal(named(calls, "unet")[0]["sample"], noise)


@pytest.mark.parametrize("noise", ["cpu", "cuda"])
def test_the_second_draw_goes_on_in_each_stream(bundle, noise):
    together = draws(bundle, seed=5, batch=3, noise=noise)
    drawn = [together.initial(), together.normal(2.0, 1.0), together.normal(1.0, 0.5)]
    for k in range(3):
        alone = draws(bundle, seed=5 + k, noise=noise)
        for many, one in zip(drawn, [alone.initial(), alone.normal(2.0, 1.0), alone.normal(1.0, 0.5)], strict=True):
            np.testing.assert_array_equal(many[k : k + 1], one)
    assert len({array.tobytes() for array in drawn}) == 3


def test_noise_of_a_gpu_is_another_stream(bundle):
    generator = PhiloxGenerator(7)
    gpu = draws(bundle, seed=7, noise="cuda")
    np.testing.assert_array_equal(gpu.initial()[0], generator.randn(SHAPE))
    np.testing.assert_array_equal(gpu.normal(2.0, 1.0)[0], generator.randn(SHAPE))
    assert not np.allclose(draws(bundle, seed=7).initial(), draws(bundle, seed=7, noise="cuda").initial(), atol=0.1)


def test_a_run_uses_the_noise_it_is_asked_for(fake, calls):
    fake.generate("a", steps=1, guidance=1.0, seed=7, noise="cuda", **SMALL)
    np.testing.assert_array_equal(named(calls, "unet")[0]["sample"][0], PhiloxGenerator(7).randn(SHAPE))


@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_a_variation_turns_one_seed_s_noise_towards_the_others(bundle, strength):
    settings = {"seed": 5, "variation_seed": 100, "variation_strength": strength, "batch": 3}
    together = draws(bundle, **settings)
    expected = np.stack([varied(randn(SHAPE, 5), randn(SHAPE, 100 + k), strength) for k in range(3)])
    np.testing.assert_array_equal(together.initial(), expected)
    if strength == 1:
        np.testing.assert_array_equal(expected, np.stack([randn(SHAPE, 100 + k) for k in range(3)]))
    later = together.normal(2.0, 1.0)  # what is drawn on the way is the seed's own
    np.testing.assert_array_equal(later[0], later[2])
    plain = draws(bundle, seed=5)
    plain.initial()
    np.testing.assert_array_equal(later[:1], plain.normal(2.0, 1.0))


def test_a_variation_of_no_strength_is_none(bundle):
    got = draws(bundle, seed=5, variation_seed=100, variation_strength=0.0, batch=2).initial()
    np.testing.assert_array_equal(got, draws(bundle, seed=5, batch=2).initial())


def test_a_variation_of_a_gpu_s_noise(bundle):
    got = draws(bundle, seed=5, variation_seed=9, variation_strength=0.5, noise="cuda").initial()[0]
    expected = varied(PhiloxGenerator(5).randn(SHAPE), PhiloxGenerator(9).randn(SHAPE), 0.5)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("noise", ["cpu", "cuda"])
@pytest.mark.parametrize("sampler", BROWNIAN)
def test_a_path_is_the_same_whatever_the_batch(bundle, sampler, noise):
    levels = grid(bundle, sampler, 3)
    steps = list(zip(levels.sigmas[:-1].tolist(), levels.sigmas[1:].tolist(), strict=True))
    together = draws(bundle, seed=5, batch=3, noise=noise, sampler=sampler).brownian(levels)
    drawn = [together(*step) for step in steps]
    for k in range(3):
        alone = draws(bundle, seed=5 + k, noise=noise, sampler=sampler).brownian(levels)
        for step, many in zip(steps, drawn, strict=True):
            np.testing.assert_array_equal(many[k : k + 1], alone(*step))
    assert len({array.tobytes() for array in drawn}) == len(steps)


@pytest.mark.parametrize(("noise", "generator"), [("cpu", TorchGenerator), ("cuda", PhiloxGenerator)])
def test_a_path_runs_from_the_highest_level_to_the_lowest_above_zero(bundle, noise, generator):
    levels = grid(bundle, "dpmpp_2m_sde", 3)
    high, low = levels.sigmas[0], levels.sigmas[-1]
    expected = BrownianTree(7, SHAPE, low, high, generator)(high, low)
    np.testing.assert_array_equal(draws(bundle, seed=7, noise=noise).brownian(levels)(high, low)[0], expected)


def test_a_brownian_sampler_follows_the_path(fake, calls):
    """The first step of DPM-Solver++ on the SDE solved for the noise that it added: Lu et al. (2022b), section 4."""
    step = next(fake.steps(Request("a", sampler="dpmpp_2m_sde", sigmas=(9.0, 4.0, 1.0), seed=7, **SMALL)))
    x, h = named(calls, "unet")[0]["sample"][:1], math.log(9 / 4)
    still = noise_scale(4) / noise_scale(9) * math.exp(-h) * x - signal_scale(4) * math.expm1(-2 * h) * step.denoised
    added = (step.latents - still) / (signal_scale(4) * 4 * math.sqrt(-math.expm1(-2 * h)))
    np.testing.assert_allclose(added[0], BrownianTree(7, SHAPE, 1.0, 9.0)(9.0, 4.0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("spacing", "start"), [("trailing", noise_scale(14.6)), ("leading", 1.0)])
@pytest.mark.parametrize("sampler", ["euler", "dpm2_a", "dpmpp_sde"])
def test_a_grid_says_how_strong_the_noise_is_at_first(fake, calls, sampler, spacing, start):
    fake.generate("a", sampler=sampler, spacing=spacing, sigmas=(14.6, 1.0), guidance=1.0, seed=7, **SMALL)
    np.testing.assert_allclose(named(calls, "unet")[0]["sample"][0], start * randn(SHAPE, 7), rtol=1e-6)


def test_a_path_is_the_same_for_twice_the_steps(bundle):
    """Increments over halves of a step add up to the step's, weighed by the root of their heights."""
    levels = grid(bundle, "dpmpp_2m_sde", 4)
    path = draws(bundle, seed=3).brownian(levels)
    high, middle, low = levels.sigmas[0], levels.sigmas[1], levels.sigmas[2]
    halves = (high - middle) ** 0.5 * path(high, middle) + (middle - low) ** 0.5 * path(middle, low)
    np.testing.assert_allclose(halves, (high - low) ** 0.5 * path(high, low), rtol=1e-3, atol=1e-3)


def test_a_path_s_noise_is_of_unit_variance(bundle):
    noise = NoiseSource(resolve(Request("a", seed=0), bundle.manifest).noise, (4, 32, 32)).brownian(
        grid(bundle, "dpmpp_sde", 2)
    )
    levels = grid(bundle, "dpmpp_sde", 2).sigmas
    assert noise(levels[0], levels[1]).std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_an_image_of_a_batch_is_the_one_of_its_seed_alone(fake, sampler):
    options = {"steps": 3, "sampler": sampler, **options_of(sampler), **SMALL}
    together = latents_of(fake, Request("a", seed=7, batch=4, **options))
    for k in (0, 3):
        alone = latents_of(fake, Request("a", seed=7 + k, **options))
        np.testing.assert_array_equal(together[:, k : k + 1], alone)


@pytest.mark.parametrize("sampler", [name for name in STOCHASTIC if SAMPLERS[name].options])
def test_what_is_drawn_on_the_way_matters(fake, sampler):
    options = {"steps": 3, "sampler": sampler, "seed": 7, **SMALL}
    drawn = latents_of(fake, Request("a", **options, **options_of(sampler)))
    still = {"gamma": 0.0} if sampler == "tcd" else {"eta": 0.0}
    assert not np.allclose(latents_of(fake, Request("a", **options, **still))[-1], drawn[-1], atol=1e-3)


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp_sde"])
def test_a_variation_of_a_batch_is_the_one_alone(fake, sampler):
    options = {"steps": 3, "sampler": sampler, "seed": 7, "variation_strength": 0.3, **SMALL}
    together = latents_of(fake, Request("a", batch=3, variation_seed=50, **options))
    for k in (0, 2):
        alone = latents_of(fake, Request("a", variation_seed=50 + k, **options))
        np.testing.assert_array_equal(together[:, k : k + 1], alone)


@pytest.mark.parametrize("noise", ["cpu", "cuda"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_step_works(bundle, sampler, noise):
    schedule = {"prediction": "flow_prediction"} if SAMPLERS[sampler].flow else {}
    pipeline = pipeline_of(bundle, [], **schedule)
    [latents] = latents_of(pipeline, Request("a", steps=1, sampler=sampler, seed=2, noise=noise, batch=2, **SMALL))
    assert latents.shape == (2, *SHAPE) and np.isfinite(latents).all()


@pytest.mark.parametrize("sampler", ["ddim", "euler_a", "dpmpp_2m_sde"])
def test_an_image_of_a_batch_is_the_one_alone_with_the_model(emoji, sampler):
    options = {"steps": 3, "sampler": sampler, "width": 64, "height": 48}
    together = emoji.generate("a red apple", seed=7, batch=2, **options).images
    for k, image in enumerate(together):
        assert psnr(image, emoji.generate("a red apple", seed=7 + k, **options).images[0]) >= 60
