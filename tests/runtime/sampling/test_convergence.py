"""Samplers against closed forms: how fast they come close to the exact path, and to the exact law where they add noise.

In the frame y = x / alpha = x0 + sigma * noise. The data are two bumps, N(1, W^2) or N(-1, W^2), evenly: for a single
one the clean latents are linear in y, which some samplers get right by a higher order. The model's view is known, and
since the probability-flow ODE of Karras et al. (2022), eq. 1, keeps the order of points, so is the exact path: the
distribution function of y at each level stays what it is along it. For a single bump the law of a sampler's result is
known too: it is normal, and every draw of noise adds to it with a weight.
"""

import itertools
import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from latentrt.sampling.grids import Grid
from latentrt.sampling.samplers import SAMPLERS
from latentrt.sampling.samplers.adams import EVEN
from latentrt.sampling.samplers.dpm import multistep_integral
from latentrt.sampling.schedule import noise_scale, signal_scale

MU, C = 0.7, 0.5
W = 0.5
TOP, LOW = 10.0, 0.3
STEPS = (80, 160, 320)


def sampler_of(name, **options):
    """Returns a sampler's generator function with its options; missing ones have their defaults."""
    sampler = SAMPLERS[name]
    assert options.keys() <= sampler.options.keys()
    return partial(sampler.steps, **{key: option.default for key, option in sampler.options.items()} | options)


def down(levels):
    """Returns the grid that goes down `levels`; as its table, these levels."""
    levels = np.array(levels)
    return Grid(np.arange(len(levels) - 1.0, 0, -1), levels[:-1], levels[1:], levels[::-1])


def even(steps):
    """Returns a grid with even steps in sigma."""
    return down(np.linspace(5, 1, steps + 1))


def graded(steps):
    """Returns a grid with even steps in log sigma, the first and the last one cut into halves and halves again.

    At both ends samplers have too little history or use less of it: there their order is lower. It would be all that
    one saw, were the steps there not so small.
    """
    halves = 2.0 ** -np.arange(10, 0, -1)
    places = np.concatenate([[0], halves, np.arange(1, steps), steps - halves[::-1], [steps]])
    return down(TOP * (LOW / TOP) ** (places / steps))


def last(sampler, denoise, x, grid, noise=None):
    *_, (final, _) = sampler(denoise, x, grid, noise)  # without noise, who asks for it fails
    return final


def normals(shape=(1, 4, 6, 5)):
    return np.random.default_rng(0).standard_normal(shape)


def ideal(x, sigma):
    """Returns the mean of x0 given unit-variance latents, for x0 ~ N(MU, C^2)."""
    signal, noise = signal_scale(sigma), noise_scale(sigma)
    return (C**2 * signal * x + noise**2 * MU) / (C**2 * signal**2 + noise**2)


def two_bumps(x, sigma):
    """Returns the mean of x0 given unit-variance latents, for the two bumps."""
    signal, noise = signal_scale(sigma), noise_scale(sigma)
    variance = W**2 * signal**2 + noise**2
    return (W**2 * signal * x + noise**2 * np.tanh(signal * x / variance)) / variance


def exact(x, sigma, sigma_next):
    """Returns where the path through `x` at `sigma` is at `lower`, for the two bumps, by bisection."""
    share = distribution(x / signal_scale(sigma), sigma)
    low, high = np.full_like(x, -20.0), np.full_like(x, 20.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = distribution(middle, sigma_next) < share
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return signal_scale(sigma_next) * high


def distribution(y, sigma):
    erf, width = np.vectorize(math.erf), math.sqrt(2) * math.hypot(W, sigma)
    return (2 + erf((y - 1) / width) + erf((y + 1) / width)) / 4


# The order of convergence. Multistep samplers are of the order that they are asked for, with these exceptions:
# - dpmpp of order 3 is of order 2, as in its references: `test_a_bend_counts_half`;
# - unipc is of one order more, Zhao et al. (2023), corollary 3.2: its corrector sees the step's end as well;
# - pndm starts with steps of second order, whose share shows only in far smaller steps than these.
ORDERS = {
    ("ddim", "eta=0"): 1,
    ("euler",): 1,
    ("euler_a", "eta=0"): 1,
    ("flow_euler",): 1,
    ("tcd", "gamma=0"): 1,
    ("heun",): 2,
    ("flow_heun",): 2,
    ("dpm2",): 2,
    ("dpm2_a", "eta=0"): 2,
    ("dpmpp_2s_a", "eta=0"): 2,
    ("dpmpp_sde", "eta=0"): 2,
    ("pndm",): 4,
    ("dpmpp_2m_sde", "eta=0", "solver=midpoint"): 2,
    ("dpmpp_2m_sde", "eta=0", "solver=heun"): 2,
    ("dpmpp_3m_sde", "eta=0"): 2,
    **{("dpmpp_2m", f"order={n}", f"solver={s}"): min(n, 2) for n in (1, 2, 3) for s in ("midpoint", "heun")},
    **{("unipc", f"order={n}", f"solver={s}"): n + 1 for n in (1, 2, 3) for s in ("bh1", "bh2")},
    **{("deis", f"order={n}"): n for n in (1, 2, 3)},
    **{("lms", f"order={n}"): n for n in (1, 2, 3, 4)},
}


def options_of(words):
    """Returns the options of "eta=0" and the like."""
    pairs = (word.split("=") for word in words)
    return {key: value if value.isalnum() and not value.isdigit() else json.loads(value) for key, value in pairs}


def test_every_sampler_has_its_order_measured():
    # Those left out add noise whatever is asked for.
    assert {name for name, *_ in ORDERS} == SAMPLERS.keys() - {"ddpm", "lcm"}


@pytest.mark.parametrize("case", ORDERS, ids=" ".join)
def test_order_of_convergence(case):
    name, *words = case
    sampler, x = sampler_of(name, **options_of(words)), normals()
    grids = [even(n) if name == "pndm" else graded(n) for n in STEPS]
    errors = [
        np.abs(last(sampler, two_bumps, x, grid) - exact(x, grid.sigmas[0], grid.sigmas_next[-1])).max()
        for grid in grids
    ]
    slopes = -np.diff(np.log2(errors))
    assert slopes == pytest.approx([ORDERS[case]] * 2, abs=0.16), errors
    assert slopes[-1] == pytest.approx(ORDERS[case], abs=0.09), errors


@pytest.mark.parametrize("solver", ["bh1", "bh2"])
def test_unipc_in_even_steps_ends_with_one_of_second_order(solver):
    # The order falls to that of the steps that are left, so without small steps at the end, order 3 shows as 2.
    sampler, x = sampler_of("unipc", order=3, solver=solver), normals()
    errors = [
        np.abs(last(sampler, two_bumps, x, down(np.geomspace(TOP, LOW, n + 1))) - exact(x, TOP, LOW)).max()
        for n in STEPS
    ]
    assert -np.diff(np.log2(errors)) == pytest.approx([2, 2], abs=0.03)


@pytest.mark.parametrize(("solver", "scale"), [("bh1", math.log(3)), ("bh2", 1 - 1 / 3)])
def test_the_first_correction_of_unipc_by_hand(solver, scale):
    # Zhao et al. (2023), eq. 9 with p = 1 from 3 to 1: half of B(h) times what the clean latents changed on the way.
    x = normals()
    before = two_bumps(x, 3.0)
    tried = noise_scale(1.0) / noise_scale(3.0) * x + signal_scale(1.0) * (1 - 1 / 3) * before
    there = two_bumps(tried, 1.0)
    corrected = tried + signal_scale(1.0) * scale / 2 * (there - before)
    expected = noise_scale(0.5) / noise_scale(1.0) * corrected + signal_scale(0.5) / 2 * there
    got = last(sampler_of("unipc", order=1, solver=solver), two_bumps, x, down([3.0, 1.0, 0.5]))
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("order", EVEN)
def test_weights_of_even_steps_are_exact_for_polynomials(order):
    for power in range(order):  # from 0 to 1, of values at 0, -1, -2 ...
        assert sum(w * (-k) ** power for k, w in enumerate(EVEN[order])) == pytest.approx(1 / (power + 1))


@pytest.mark.parametrize("decay", [0.2, 0.7])
def test_a_bend_counts_half(decay):
    # A line is integrated exactly. Of a parabola's bend, references and we take half: what is missing is of the third
    # order in the step, and of the second in the end.
    h, s = 0.35, np.array([0.0, -0.8, -1.9])  # where on the step the model was asked, in its length
    levels = np.exp(-h * s)
    whole = -math.expm1(-decay)
    line = 1 - whole / decay  # the integrals of decay * e^(-decay * (1 - s)) * s^n over the step
    parabola = 1 - 2 * line / decay
    got = multistep_integral(
        [(np.array(3 + 2 * p), float(level)) for p, level in zip(s, levels, strict=True)], h, decay, "heun"
    )
    assert got == pytest.approx(3 * whole + 2 * line, rel=1e-12)
    got = multistep_integral(
        [(np.array(p**2), float(level)) for p, level in zip(s, levels, strict=True)], h, decay, "heun"
    )
    assert got == pytest.approx(parabola / 2, rel=1e-12)


# What the noisy samplers become without noise.
@pytest.mark.parametrize(
    ("noisy", "plain"),
    [
        (("euler_a", "eta=0"), ("euler",)),
        (("ddim", "eta=0"), ("euler",)),
        (("ddim", "eta=1"), ("ddpm",)),
        (("dpm2_a", "eta=0"), ("dpm2",)),
        (("dpmpp_2m_sde", "eta=0", "solver=midpoint"), ("dpmpp_2m", "order=2", "solver=midpoint")),
        (("dpmpp_2m_sde", "eta=0", "solver=heun"), ("dpmpp_2m", "order=2", "solver=heun")),
        (("dpmpp_3m_sde", "eta=0"), ("dpmpp_2m", "order=3", "solver=heun")),
        (("dpmpp_sde", "eta=0"), ("dpmpp_2s_a", "eta=0")),
        (("tcd", "gamma=0"), ("euler",)),
    ],
    ids=lambda words: " ".join(words),
)
def test_the_same_walk_by_another_name(noisy, plain):
    x, grid = normals(), down([*np.geomspace(14.6, 0.03, 20), 0.0])  # dpmpp_2m lowers the order in under 15 steps

    def source():
        generator = np.random.default_rng(1)
        return lambda sigma, sigma_next: generator.standard_normal(x.shape)

    got, expected = (
        last(sampler_of(name, **options_of(words)), two_bumps, x, grid, source()) for name, *words in (noisy, plain)
    )
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


# The order at which the variance of the result comes close to the data's.
LAWS = {
    ("ddpm",): 1,
    **{(name, f"eta={eta}"): 1 for name in ("ddim", "euler_a") for eta in (0.5, 1)},
    **{(name, f"eta={eta}"): 2 for name in ("dpm2_a", "dpmpp_2s_a", "dpmpp_3m_sde", "dpmpp_sde") for eta in (0.5, 1)},
    **{("dpmpp_2m_sde", f"eta={eta}", f"solver={s}"): 2 for eta in (0.5, 1) for s in ("midpoint", "heun")},
}


def laws(sampler, denoise, grid, c=C):
    """Yields the mean and the variance of y after each step, from the exact law at the start.

    Everything is linear in the noise, so one run finds the weight of each draw: a column has a unit of one of them,
    the first of none, the second of the start's. A draw is what a Brownian path gains between its levels: of more than
    one unit where others are drawn from a part of it.
    """
    asked = []
    last(sampler, denoise, np.zeros((1, 1, 1, 1)), grid, lambda *ends: asked.append(ends) or 0.0)
    pieces = list(itertools.pairwise(sorted({level for ends in asked for level in ends})))

    def noise(sigma, sigma_next):
        units = [
            math.sqrt(max(0, min(high, sigma) - max(low, sigma_next)) / (sigma - sigma_next)) for low, high in pieces
        ]
        return np.array([0, 0, *units]).reshape(1, 1, 1, -1)

    top = float(grid.sigmas[0])
    x = np.full((1, 1, 1, 2 + len(pieces)), signal_scale(top) * MU)
    x[..., 1] += signal_scale(top) * math.hypot(c, top)
    for (latents, _), sigma_next in zip(sampler(denoise, x, grid, noise), grid.sigmas_next.tolist(), strict=True):
        y = latents.ravel() / signal_scale(sigma_next)
        yield y[0], np.square(y[1:] - y[0]).sum()


@pytest.mark.parametrize("case", [*LAWS, ("tcd", "gamma=0.3"), ("tcd", "gamma=1"), ("lcm",)], ids=" ".join)
def test_noise_has_its_exact_share_when_the_data_is_a_point(case):
    name, *words = case
    grid = down([14.6, 5.0, 4.0, 1.0, 0.2, 0.1])
    grid = high(grid) if name == "lcm" else grid
    sampler = sampler_of(name, **options_of(words))
    means, variances = zip(*laws(sampler, lambda x, sigma: np.full_like(x, MU), grid, c=0.0), strict=True)
    np.testing.assert_allclose(means, MU, rtol=1e-9)
    np.testing.assert_allclose(variances, grid.sigmas_next**2, rtol=1e-9)


def test_lcm_has_the_exact_law_with_a_model_that_knows_where_paths_end():
    def end(x, sigma):
        return MU + C * (x / signal_scale(sigma) - MU) / math.hypot(C, sigma)

    for levels in ([14.6, 0.0], [14.6, 5.0, 0.2, 0.0], [14.6, 5.0, 0.2]):
        grid = high(down(levels))
        for (mean, variance), sigma_next in zip(laws(sampler_of("lcm"), end, grid), grid.sigmas_next, strict=True):
            assert (mean, variance) == pytest.approx((MU, C**2 + sigma_next**2), rel=1e-9)


def high(grid):
    """Returns the grid at timesteps so high that LCM takes nothing of the noisy latents."""
    return replace(grid, timesteps=grid.timesteps + 1e6)


@pytest.mark.parametrize("case", LAWS, ids=" ".join)
def test_the_law_of_the_result_comes_close_to_that_of_the_data(case):
    name, *words = case
    sampler = sampler_of(name, **options_of(words))
    steps = np.array([40, 80, 160])
    found = [list(laws(sampler, ideal, down(np.geomspace(TOP, LOW, n + 1))))[-1] for n in steps.tolist()]
    means, variances = np.array(found).T
    np.testing.assert_allclose(means, MU, rtol=1e-12)
    errors = np.abs(variances / (C**2 + LOW**2) - 1)  # one of them changes its sign: no slope to speak of
    order = LAWS[case]
    assert (errors * (steps / 40.0) ** order < {1: 0.07, 2: 0.003}[order]).all(), errors
