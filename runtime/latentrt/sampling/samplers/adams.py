"""Adams-Bashforth samplers: the next step follows the polynomial through the last few slopes.

What sets them apart is the coordinate in which the slopes, the noises of `noise_of`, are taken for a polynomial.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from latentrt.sampling.grids import Grid
from latentrt.sampling.schedule import PURE_NOISE, signal_scale
from latentrt.sampling.step import Denoise, Noise, SamplerSteps, ddim_step, predicted_noise, steps_of
from latentrt.tensors import Array

Weigh = Callable[[Sequence[float], float], list[float]]


def lms(denoise: Denoise, x: Array, grid: Grid, _noise: Noise, *, order: int) -> SamplerSteps:
    """Steps of the linear multistep method of k-diffusion: slopes are a polynomial in sigma. order: 1 to 4.

    As diffusers 0.42.1's LMSDiscreteScheduler from the first step on; where a run starts part way, that one weighs
    slopes that it does not have.
    """
    return adams(denoise, x, grid, order, weights_in_sigma)


def deis(denoise: Denoise, x: Array, grid: Grid, _noise: Noise, *, order: int) -> SamplerSteps:
    """Steps of DEIS, Zhang and Chen (2023), eq. 15: slopes are a polynomial in log sigma ("log rho"). order: 1 to 3.

    As diffusers 0.42.1's DEISMultistepScheduler, which in under 15 steps lowers the order of the last ones.
    """
    return adams(denoise, x, grid, order, weights_in_log_sigma, lower_last=grid.total_steps < 15)


def adams(
    denoise: Denoise, x: Array, grid: Grid, order: int, weigh: Weigh, *, lower_last: bool = False
) -> SamplerSteps:
    """Steps that add up the last `order` slopes as `weigh` says. lower_last: the last steps are of orders 2 and 1."""
    levels: deque[float] = deque(maxlen=order)
    slopes: deque[Array] = deque(maxlen=order)
    for i, (sigma, sigma_next) in enumerate(steps_of(grid)):
        denoised = denoise(x, sigma)
        if sigma_next != sigma:  # close to as many steps as there are timesteps, a grid repeats levels
            levels.appendleft(sigma)
            slopes.appendleft(predicted_noise(x, denoised, sigma))
            used = min(len(levels), len(grid.sigmas) - i) if lower_last else len(levels)
            x = multistep_step(x, sigma, sigma_next, weigh(list(levels)[:used], sigma_next), slopes)
        yield x, denoised


def pndm(denoise: Denoise, x: Array, grid: Grid, _noise: Noise) -> SamplerSteps:
    """Steps of pseudo linear multistep (PLMS), Liu et al. (2022), eqs. 9 and 12: a polynomial in the step's number.

    The first step, unless it is from pure noise, is tried, and taken again with the mean of the slopes at its ends.
    As diffusers 0.42.1's PNDMScheduler with skip_prk_steps for a model that predicts noise. For one that predicts v,
    that averages v in place of the noise, which loses the order of convergence; and where a step does not end at the
    next one's start (linspace) it takes the first step again from another level than that of its latents. Here both
    follow the paper.
    """
    slopes: deque[Array] = deque(maxlen=4)
    steps = list(steps_of(grid))
    for i, (sigma, sigma_next) in enumerate(steps):
        denoised = denoise(x, sigma)
        slopes.appendleft(predicted_noise(x, denoised, sigma))
        if i == 0 and len(steps) > 1 and sigma < PURE_NOISE:
            x_next, level = ddim_step(x, denoised, sigma, sigma_next), steps[1][0]
            there = predicted_noise(x_next, denoise(x_next, level), level)
            x = multistep_step(x, sigma, sigma_next, [(sigma_next - sigma) / 2] * 2, [slopes[0], there])
        else:
            x = multistep_step(x, sigma, sigma_next, [(sigma_next - sigma) * w for w in EVEN[len(slopes)]], slopes)
        yield x, denoised


EVEN = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def multistep_step(
    x: Array, sigma: float, sigma_next: float, weights: Sequence[float], slopes: Sequence[Array]
) -> Array:
    """`x` taken from `sigma` to `sigma_next` along the weighted sum of slopes; the weights have sigma's unit."""
    along = sum(weight * slope for weight, slope in zip(weights, slopes, strict=False))
    advanced_latents: Array = signal_scale(sigma_next) * (x / signal_scale(sigma) + along)
    return advanced_latents


def weights_in_sigma(levels: Sequence[float], sigma_next: float) -> list[float]:
    """The weights of slopes at `levels`, newest first, for a step to `sigma_next`: exact for polynomials in sigma."""
    height = sigma_next - levels[0]
    return solved([(level - levels[0]) / height for level in levels], [height / (n + 1) for n in range(len(levels))])


def weights_in_log_sigma(levels: Sequence[float], sigma_next: float) -> list[float]:
    """The same, exact for polynomials in log sigma: integrals of log(sigma / levels[0])^n, by parts."""
    depth = math.log(sigma_next / levels[0]) if sigma_next else 0.0
    moments = [sigma_next - levels[0]]
    for n in range(1, len(levels)):
        moments.append(sigma_next * depth**n - n * moments[-1])
    return solved([math.log(level / levels[0]) for level in levels], moments)


def solved(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """The weights that give polynomials at `nodes` the integrals `moments` of 1, u, u^2 ..."""
    powers = np.vander(nodes, increasing=True).T
    weights: list[float] = np.linalg.solve(powers, moments).tolist()
    return weights
