"""Samplers: generators that walk latents down a grid of noise levels, one (latents, denoised) pair a step.

Every sampler sees the model as `denoised = denoise(x, sigma)`; prediction types, guidance and engines are adapted
outside. `x` is float32, (batch, channels, height, width), unit variance: x = alpha * x0 + s * noise (see `schedule`).
History lives in local variables, so a run can be dropped at any step and two runs never meet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from latentrt.schedule import Grid, NoiseSchedule, SigmasName, Spacing, alpha, ddim_grid, dpm_grid, sigma_grid, spread
from latentrt.tensors import Array

Denoise = Callable[[Array, float], Array]
Walk = Iterator[tuple[Array, Array]]


def first_order(denoise: Denoise, x: Array, grid: Grid) -> Walk:
    """Steps of DDIM without noise, Song et al. (2021), eq. 12: keep the predicted noise, lower its share.

    This is also Euler's method on the ODE of Karras et al. (2022), eq. 4: in the frame y = x / alpha both read
    y' = x0 + (sigma' / sigma)(y - x0). Samplers "ddim" and "euler" differ in their grids only.
    """
    for sigma, lower in zip(grid.sigmas.tolist(), grid.lowers.tolist(), strict=True):
        denoised = denoise(x, sigma)
        noise = (x - alpha(sigma) * denoised) / spread(sigma)
        x = alpha(lower) * denoised + spread(lower) * noise
        yield x, denoised


def dpmpp_2m(denoise: Denoise, x: Array, grid: Grid) -> Walk:
    """Steps of DPM-Solver++(2M), Lu et al. (2022), algorithm 2, with the last step of first order.

    As diffusers 0.42.1's DPMSolverMultistepScheduler (dpmsolver++, midpoint, order 2, last sigma zero).
    """
    older: Array | None = None
    older_h = math.nan
    for sigma, lower in zip(grid.sigmas.tolist(), grid.lowers.tolist(), strict=True):
        denoised = denoise(x, sigma)
        target, h = denoised, math.log(sigma / lower) if lower else math.inf
        # Close to as many steps as there are timesteps, a grid repeats levels: a step of no height tells no slope.
        if older is not None and lower and older_h:
            slope = h / (2 * older_h)
            target = (1 + slope) * denoised - slope * older
        x = (spread(lower) / spread(sigma)) * x + alpha(lower) * (1 - lower / sigma) * target
        older, older_h = denoised, h
        yield x, denoised


@dataclass(frozen=True)
class Sampler:
    """A walk and the grid that its reference implementation lays out for it."""

    walk: Callable[[Denoise, Array, Grid], Walk]
    grid: Callable[[NoiseSchedule, int, Spacing, SigmasName], Grid]


SAMPLERS = {
    "ddim": Sampler(first_order, ddim_grid),
    "euler": Sampler(first_order, sigma_grid),
    "dpmpp_2m": Sampler(dpmpp_2m, dpm_grid),
}
