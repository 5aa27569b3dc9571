"""Properties that every sampler has, on every kind of grid; how well they converge is in test_convergence.

The data are Gaussian, x0 ~ N(MU, C^2). In the frame y = x / alpha = x0 + sigma * noise, the mean of x0 given y is
(C^2 y + sigma^2 MU) / (C^2 + sigma^2), and along the probability-flow ODE of Karras et al. (2022), eq. 1,
(y - MU) / sqrt(C^2 + sigma^2) stays what it is.
"""

import inspect
import itertools
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from latentrt.sampling.calls import walk
from latentrt.sampling.curves import CURVES
from latentrt.sampling.grids import Grid
from latentrt.sampling.prediction import PREDICTIONS
from latentrt.sampling.samplers import SAMPLERS
from latentrt.sampling.samplers.single import midpoint
from latentrt.sampling.schedule import NoiseSchedule, noise_scale, signal_scale

MU, C = 0.7, 0.5
STABLE = NoiseSchedule(1000, "scaled_linear", 0.00085, 0.012, "epsilon", False, "leading", 1, "one")
ZERO = replace(STABLE, prediction="v_prediction", zero_terminal_snr=True)
FLOW = replace(STABLE, prediction="flow_prediction", shift=3.0)
SPACINGS = ("leading", "trailing", "linspace")
DISTILLED = {"lcm", "tcd"}
TWICE = ("heun", "dpm2", "dpm2_a", "dpmpp_2s_a", "dpmpp_sde", "flow_heun")  # call the model twice a step
# Each sampler as it is by default, and with each of its options at each of its other values.
VARIANTS = [
    (name, options)
    for name, sampler in SAMPLERS.items()
    for options in [
        {},
        *({key: value} for key, option in sampler.options.items() for value in option.choices or option.range),
    ]
    if all(sampler.options[key].default != value for key, value in options.items())
]


def sampler_of(name, options=None):
    """Returns a sampler's generator function with its options."""
    sampler = SAMPLERS[name]
    return partial(sampler.steps, **{key: option.default for key, option in sampler.options.items()} | (options or {}))


def is_quiet(name, options=None):
    """Returns whether a sampler adds no noise."""
    words = sampler_of(name, options).keywords
    return name not in ("ddpm", "lcm") and not words.get("eta") and not words.get("gamma")


def grid_of(name, steps, spacing="trailing", sigmas="normal", schedule=STABLE):
    """Returns the grid of a sampler, as its reference has it."""
    return SAMPLERS[name].grid(FLOW if SAMPLERS[name].flow else schedule, steps, spacing, sigmas)


def down(*levels):
    """Returns the grid that goes down `levels`; as its table, these levels."""
    levels = np.array(levels)
    return Grid(np.arange(len(levels) - 1.0, 0, -1), levels[:-1], levels[1:], levels[::-1])


def ideal(x, sigma):
    """Returns the mean of x0 given unit-variance latents, in a form that holds at sigma = inf as well."""
    signal, noise = signal_scale(sigma), noise_scale(sigma)
    return (C**2 * signal * x + noise**2 * MU) / (C**2 * signal**2 + noise**2)


def exact(x, sigma, sigma_next):
    """Returns where the path through `x` at `sigma` is at `lower`, in unit-variance latents."""
    score = (x - signal_scale(sigma) * MU) / math.hypot(C * signal_scale(sigma), noise_scale(sigma))
    return signal_scale(sigma_next) * MU + math.hypot(C * signal_scale(sigma_next), noise_scale(sigma_next)) * score


def normals(*images, dtype=np.float32):
    """Returns the latents that these images start from."""
    return np.stack([np.random.default_rng(image).standard_normal((4, 6, 5)) for image in images]).astype(dtype)


def noise_for(*images, dtype=np.float32):
    """Returns a source of noise for these images: of each its own at every level."""

    def noise(sigma, sigma_next):
        assert sigma > sigma_next > 0
        place = int(1e6 * sigma_next)
        draws = [np.random.default_rng([image, place]).standard_normal((4, 6, 5)) for image in images]
        return np.stack(draws).astype(dtype)

    return noise


def last(sampler, x, grid, noise=None, denoise=ideal):
    *_, (final, _) = sampler(denoise, x, grid, noise or noise_for(*range(len(x)), dtype=x.dtype))
    return final


def checked(sampler, x, grid, denoise=ideal):
    """Returns the last latents of a run of which every step is as it should be."""
    before = x.copy()
    steps = list(sampler(denoise, x, grid, noise_for(*range(len(x)))))
    assert len(steps) == len(grid.sigmas)
    for latents, denoised in steps:
        assert latents.dtype == denoised.dtype == np.float32
        assert latents.shape == denoised.shape == x.shape
        assert np.isfinite(latents).all() and np.isfinite(denoised).all()
    np.testing.assert_array_equal(x, before)
    return steps[-1][0]


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_take_exactly_their_listed_options(name):
    # A trailing argument without default that is not among the options would fail at the first image.
    sampler, options = SAMPLERS[name].steps, SAMPLERS[name].options
    parameters = inspect.signature(sampler).parameters.values()
    assert {p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty} == options.keys()
    for option in options.values():
        assert option.default in option.choices if option.choices else option.range[0] <= option.default


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_runs_of_every_length_from_every_start(name, options, steps):
    grid = grid_of(name, steps)
    for skipped in sorted({0, 1, steps // 2, steps - 1} - {steps}):
        rest = grid.sliced(skipped)
        assert len(rest.sigmas) == steps - skipped and rest.total_steps == steps
        for images in (1, 3) if skipped < 2 else (1,):
            checked(sampler_of(name, options), normals(*range(images)), rest)


def curves_of(name):
    """Returns the curves that a sampler takes, and a list of levels."""
    if SAMPLERS[name].flow:
        return [*sorted(CURVES.keys() - {"ays", "ays_sdxl"}), (1.0, 0.8, 0.3, 0.1)]
    return [*CURVES, (14.0, 5.0, 1.0, 0.2)]


@pytest.mark.parametrize(("name", "sigmas"), [(name, sigmas) for name in SAMPLERS for sigmas in curves_of(name)])
def test_every_curve_and_a_list(name, sigmas):
    for steps in (1, 4, 20) if isinstance(sigmas, str) else (4,):
        grid = grid_of(name, steps, sigmas=sigmas)
        final = checked(sampler_of(name), (grid.start * normals(0)).astype(np.float32), grid)
    assert np.abs(final - MU).max() < 8 * C  # at the end of the longest run; a few levels far apart are not much


# lcm and tcd are for other models: they take what the model sees for where the path ends.
@pytest.mark.parametrize("sigmas", ["normal", "karras"])
@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - DISTILLED))
def test_twenty_steps_come_close(name, sigmas):
    grid = grid_of(name, 20, sigmas=sigmas)
    x = (grid.start * normals(0, 1, 2)).astype(np.float32)
    final, expected = last(sampler_of(name), x, grid), exact(x, grid.sigmas[0], grid.sigmas_next[-1])
    if not is_quiet(name):
        assert final.mean() == pytest.approx(MU, abs=0.1)  # 4 standard errors of 360 numbers
        assert final.std() == pytest.approx(C, abs=0.13)  # the first order is still 0.1 away
    else:
        assert np.abs(final - expected).max() < 0.25


@pytest.mark.parametrize(("steps", "spacing", "schedule"), [(1000, "leading", ZERO), (999, "linspace", STABLE)])
@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - DISTILLED - {"flow_euler", "flow_heun"}))
def test_as_many_steps_as_timesteps(name, steps, spacing, schedule):
    # Layouts repeat timesteps here: a step then starts where it ends.
    grid = grid_of(name, steps, spacing, schedule=schedule)
    x = (grid.start * normals(0)).astype(np.float32)
    final = last(sampler_of(name), x, grid)
    assert np.isfinite(final).all()
    if is_quiet(name):
        np.testing.assert_allclose(final, exact(x, grid.sigmas[0], grid.sigmas_next[-1]), atol=0.03)


# lcm's steps end at clean latents with new noise, wherever they start. pndm counts steps, each as high as the others.
@pytest.mark.parametrize(("name", "options"), [case for case in VARIANTS if case[0] not in ("lcm", "pndm")])
def test_steps_that_start_where_they_end_change_nothing(name, options):
    levels = (5.0, 5.0, 2.0, 1.0, 0.5) if name == "unipc" else (5.0, 5.0, 2.0, 2.0, 2.0, 1.0, 0.5, 0.5)
    sampler, x = sampler_of(name, options), normals(0, dtype=np.float64)  # unipc looks at the steps that are left
    once, twice = (replace(down(*levels), total_steps=20) for levels in ((5.0, 2.0, 1.0, 0.5), levels))
    if name == "tcd":  # which looks levels up in the table by the next timestep
        once, twice = (replace(grid, timesteps=0 * grid.timesteps) for grid in (once, twice))
    np.testing.assert_allclose(last(sampler, x, twice), last(sampler, x, once), rtol=1e-9)


@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - {"lcm"}))
@pytest.mark.parametrize("sigma", [0.3, 14.6, 4096.0])
def test_one_step_to_zero_is_the_denoised_latents(name, sigma):
    x = normals(0, dtype=np.float64)
    [(final, denoised)] = sampler_of(name)(ideal, x, down(sigma, 0.0), None)
    np.testing.assert_array_equal(denoised, ideal(x, sigma))
    np.testing.assert_allclose(final, denoised, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - {"lms", "deis", "pndm"}))
def test_the_last_step_to_zero_is_of_first_order(name):
    *_, (final, denoised) = sampler_of(name)(
        ideal, normals(0, dtype=np.float64), down(3.0, 1.0, 0.5, 0.0), noise_for(0, dtype=np.float64)
    )
    np.testing.assert_allclose(final, denoised, rtol=1e-12)


@pytest.mark.parametrize(("name", "options"), [case for case in VARIANTS if is_quiet(*case)])
def test_one_step_is_the_exact_path_when_the_data_is_a_point(name, options):
    x, sigma, sigma_next = normals(0, dtype=np.float64), 5.0, 0.4
    final = last(sampler_of(name, options), x, down(sigma, sigma_next), denoise=lambda x, sigma: np.full_like(x, MU))
    expected = signal_scale(sigma_next) * MU + noise_scale(sigma_next) * (x - signal_scale(sigma) * MU) / noise_scale(
        sigma
    )
    np.testing.assert_allclose(final, expected, rtol=1e-11, atol=1e-12)


def test_two_steps_of_first_order_by_hand():
    x = normals(0, dtype=np.float64)
    y = x / signal_scale(3.0)
    for sigma, sigma_next in itertools.pairwise([3.0, 1.0, 0.5]):  # Euler's method on dy / dsigma = (y - x0) / sigma
        y = y + (sigma_next - sigma) * (y - ideal(y * signal_scale(sigma), sigma)) / sigma
    np.testing.assert_allclose(last(sampler_of("euler"), x, down(3.0, 1.0, 0.5)), signal_scale(0.5) * y, rtol=1e-12)


def test_two_steps_of_dpmpp_2m_by_hand():
    # Lu et al. (2022), algorithm 2, in their symbols: lambda = -log sigma, r = h_1 / h_2. Laid out for 20 steps, since
    # under 15 the last one is of first order.
    grid = replace(down(3.0, 1.0, 0.5), total_steps=20)
    x = normals(0, dtype=np.float64)
    h1, h2 = math.log(3.0), math.log(2.0)
    d0 = ideal(x, 3.0)
    x1 = noise_scale(1.0) / noise_scale(3.0) * x - signal_scale(1.0) * math.expm1(-h1) * d0
    d1 = ideal(x1, 1.0)
    r = h1 / h2
    target = (1 + 1 / (2 * r)) * d1 - 1 / (2 * r) * d0
    x2 = noise_scale(0.5) / noise_scale(1.0) * x1 - signal_scale(0.5) * math.expm1(-h2) * target
    (first, _), (second, denoised) = sampler_of("dpmpp_2m")(ideal, x, grid, None)
    np.testing.assert_allclose(first, x1, rtol=1e-12)
    np.testing.assert_allclose(second, x2, rtol=1e-12)
    np.testing.assert_allclose(denoised, d1, rtol=1e-12)


@pytest.mark.parametrize(("name", "options"), [("dpmpp_2m", {"order": 3}), ("deis", {"order": 3})])
def test_order_falls_at_the_end_of_short_runs_alone(name, options):
    x, grid = normals(0, dtype=np.float64), down(8.0, 4.0, 2.0, 1.0, 0.5)
    one = last(sampler_of(name, {**options, "order": 1}), x, grid)
    steps = [
        [latents for latents, _ in sampler_of(name, options)(ideal, x, replace(grid, total_steps=total_steps), None)]
        for total_steps in (14, 15)
    ]
    differing = [not np.allclose(short, long, rtol=1e-9) for short, long in zip(*steps, strict=True)]
    assert differing == [False, False, True, True]  # of orders 1, 2, 2, 1 and not 1, 2, 3, 3
    assert not np.allclose(steps[0][-1], one)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "lcm", "tcd"])
def test_pure_noise_is_where_runs_start_when_the_schedule_ends_there(name):
    grid = grid_of(name, 20, schedule=ZERO)
    assert math.isinf(grid.sigmas[0])
    v, levels = PREDICTIONS[ZERO.prediction], []

    def denoise(x, sigma):
        levels.append(sigma)
        x0 = ideal(x, sigma)
        noise = x if math.isinf(sigma) else (x - signal_scale(sigma) * x0) / noise_scale(sigma)
        return v.denoised(x, signal_scale(sigma) * noise - noise_scale(sigma) * x0, sigma)

    final = checked(sampler_of(name), normals(0), grid, denoise)
    assert levels == grid.sigmas.tolist()
    assert np.abs(final - MU).max() < 4.5 * C


def test_first_order_starts_from_pure_noise():
    x, grid = normals(0, dtype=np.float64), grid_of("ddim", 500, schedule=ZERO)
    np.testing.assert_allclose(last(sampler_of("ddim"), x, grid), exact(x, math.inf, 0.0), atol=0.02)
    first, denoised = next(sampler_of("ddim")(ideal, x, grid, None))
    np.testing.assert_allclose(denoised, MU)
    np.testing.assert_allclose(first, signal_scale(grid.sigmas_next[0]) * MU + noise_scale(grid.sigmas_next[0]) * x)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_noise_is_asked_for_when_it_is_added(name, options):
    asked, levels = [], [5.0, 2.0, 1.0, 0.0]

    def noise(sigma, sigma_next):
        asked.append((sigma, sigma_next))
        return normals(len(asked))

    last(sampler_of(name, options), normals(0), down(*levels), noise)
    steps = list(itertools.pairwise(levels))[:-1]  # the step to zero adds none
    if name == "dpmpp_sde":
        steps = [(sigma, to) for sigma, sigma_next in steps for to in (midpoint(sigma, sigma_next), sigma_next)]
    assert asked == ([] if is_quiet(name, options) else steps)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_model_is_called_at_the_grid_s_levels_and_in_between(name):
    grid, seen = grid_of(name, 7), []

    def denoise(x, sigma):
        seen.append(sigma)
        return ideal(x, sigma)

    last(sampler_of(name), normals(0), grid, denoise=denoise)
    times = walk(sampler_of(name), grid).levels
    assert times.keys() == set(seen)
    assert [times[sigma] for sigma in grid.sigmas.tolist()] == grid.timesteps.tolist()
    assert all(0 <= time <= grid.timesteps[0] for time in times.values())
    assert len(seen) == {**dict.fromkeys(TWICE, 13), "pndm": 8}.get(name, 7)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sigma", [0.03, 1.0, 14.6])
def test_every_prediction_type_gives_the_same_clean_latents(prediction, sigma):
    x0, eps = normals(0), normals(1)
    x = (signal_scale(sigma) * x0 + noise_scale(sigma) * eps).astype(np.float32)
    predicted = {
        "epsilon": eps,
        "v_prediction": signal_scale(sigma) * eps - noise_scale(sigma) * x0,
        "sample": x0,
        "flow_prediction": eps - x0,
    }[prediction]
    denoised = PREDICTIONS[prediction].denoised(x, predicted.astype(np.float32), sigma)
    assert denoised.dtype == np.float32
    np.testing.assert_allclose(denoised, x0, atol=3e-5)


def test_what_is_defined_at_pure_noise():
    x, prediction = normals(0), normals(1)
    clean = {kind: PREDICTIONS[kind].denoised(x, prediction, math.inf) for kind in PREDICTIONS if kind != "epsilon"}
    np.testing.assert_array_equal(clean["v_prediction"], -prediction)
    np.testing.assert_array_equal(clean["sample"], prediction)
    np.testing.assert_array_equal(clean["flow_prediction"], x - prediction)


@pytest.mark.parametrize("sigma", [0.25, 3.0, math.inf])
def test_flow_models_take_shares_of_signal_and_noise_that_add_up(sigma):
    scale = PREDICTIONS["flow_prediction"].scale(sigma)
    assert scale * (signal_scale(sigma) + noise_scale(sigma)) == pytest.approx(1)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_runs_do_not_meet(name, options):
    sampler, grid, x = sampler_of(name, options), grid_of(name, 6), normals(0)
    expected = [latents for latents, _ in sampler(ideal, x, grid, noise_for(0))]
    dropped = sampler(ideal, 3 * x, grid, noise_for(1))
    next(dropped), next(dropped)
    pairs = zip(sampler(ideal, x, grid, noise_for(0)), sampler(ideal, 3 * x, grid, noise_for(1)), expected, strict=True)
    for (one, _), (other, _), alone in pairs:
        np.testing.assert_array_equal(one, alone)
        assert not np.array_equal(one, other)
    dropped.close()
    np.testing.assert_array_equal(last(sampler, x, grid), expected[-1])


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_an_image_is_the_same_alone_and_in_a_batch(name, options):
    sampler, grid = sampler_of(name, options), grid_of(name, 6)
    together = last(sampler, normals(0, 1, 2), grid)
    for k in range(3):
        np.testing.assert_array_equal(last(sampler, normals(k), grid, noise_for(k)), together[k : k + 1])
