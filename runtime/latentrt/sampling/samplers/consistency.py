"""Samplers for distilled models, which see the clean latents in one step from anywhere."""

from __future__ import annotations

import math

from latentrt.sampling.grids import Grid
from latentrt.sampling.schedule import alpha, spread
from latentrt.sampling.step import Denoise, Noise, Walk, moved, steps_of
from latentrt.tensors import Array

SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0


def lcm(denoise: Denoise, x: Array, grid: Grid, noise: Noise) -> Walk:
    """Steps of multistep consistency sampling, Luo et al. (2023), algorithm 3: to the clean latents and back up.

    As diffusers 0.42.1's LCMScheduler, with its boundary scalings (Song et al. 2023, appendix C).
    """
    for timestep, (sigma, lower) in zip(grid.timesteps.tolist(), steps_of(grid), strict=True):
        scaled = TIMESTEP_SCALING * timestep
        denoised = denoise(x, sigma)
        away = math.hypot(scaled, SIGMA_DATA)
        denoised = (scaled / away) * denoised + (SIGMA_DATA / away) ** 2 * x
        x = alpha(lower) * denoised
        if lower:
            x = x + spread(lower) * noise(sigma, lower)
        yield x, denoised


def tcd(denoise: Denoise, x: Array, grid: Grid, noise: Noise, *, gamma: float) -> Walk:
    """Steps of strategic stochastic sampling, Zheng et al. (2024), algorithm 4: below the next level and back up.

    gamma: 0 is deterministic, 1 goes down to the lowest level each time. As diffusers 0.42.1's TCDScheduler (its eta).
    """
    following = [*grid.timesteps[1:].tolist(), 0.0]
    table = grid.table.tolist()
    for timestep, (sigma, lower) in zip(following, steps_of(grid), strict=True):
        denoised = denoise(x, sigma)
        if lower != sigma:  # curves reach the lowest level before the last step
            # A curve's levels are not the table's, so that without gamma a look in the table would add some noise.
            below = min(table[int((1 - gamma) * timestep)], lower) if gamma else lower
            x = moved(x, denoised, sigma, below)
            if below < lower:
                share = alpha(lower) / alpha(below)
                x = share * x + math.sqrt(1 - share**2) * noise(sigma, lower)
        yield x, denoised
