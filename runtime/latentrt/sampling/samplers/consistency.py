"""Samplers for distilled models, which see the clean latents in one step from anywhere."""

from __future__ import annotations

import math

from latentrt.sampling.grids import Grid
from latentrt.sampling.schedule import noise_scale, signal_scale
from latentrt.sampling.step import Denoise, Noise, SamplerSteps, ddim_step, steps_of
from latentrt.tensors import Array

SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0


def lcm(denoise: Denoise, x: Array, grid: Grid, noise: Noise) -> SamplerSteps:
    """Steps of multistep consistency sampling, Luo et al. (2023), algorithm 3: to the clean latents and back up.

    As diffusers 0.42.1's LCMScheduler, with its boundary scalings (Song et al. 2023, appendix C).
    """
    for timestep, (sigma, sigma_next) in zip(grid.timesteps.tolist(), steps_of(grid), strict=True):
        scaled = TIMESTEP_SCALING * timestep
        denoised = denoise(x, sigma)
        away = math.hypot(scaled, SIGMA_DATA)
        denoised = (scaled / away) * denoised + (SIGMA_DATA / away) ** 2 * x
        x = signal_scale(sigma_next) * denoised
        if sigma_next:
            x = x + noise_scale(sigma_next) * noise(sigma, sigma_next)
        yield x, denoised


def tcd(denoise: Denoise, x: Array, grid: Grid, noise: Noise, *, gamma: float) -> SamplerSteps:
    """Steps of strategic stochastic sampling, Zheng et al. (2024), algorithm 4: below the next level and back up.

    gamma: 0 is deterministic, 1 goes down to the lowest level each time. As diffusers 0.42.1's TCDScheduler (its eta).
    """
    following = [*grid.timesteps[1:].tolist(), 0.0]
    table = grid.table.tolist()
    for timestep, (sigma, sigma_next) in zip(following, steps_of(grid), strict=True):
        denoised = denoise(x, sigma)
        if sigma_next != sigma:  # curves reach the lowest level before the last step
            # A curve's levels are not the table's, so that without gamma a look in the table would add some noise.
            below = min(table[int((1 - gamma) * timestep)], sigma_next) if gamma else sigma_next
            x = ddim_step(x, denoised, sigma, below)
            if below < sigma_next:
                share = signal_scale(sigma_next) / signal_scale(below)
                x = share * x + math.sqrt(1 - share**2) * noise(sigma, sigma_next)
        yield x, denoised
