"""Samplers that look no further back than the step they are in, with one model call or two."""

from __future__ import annotations

import math

from latentrt.sampling.grids import Grid
from latentrt.sampling.schedule import PURE_NOISE, alpha
from latentrt.sampling.step import Denoise, Noise, Walk, ancestral, moved, noise_of, steps_of, stirred
from latentrt.tensors import Array


def first_order(denoise: Denoise, x: Array, grid: Grid, noise: Noise, *, eta: float) -> Walk:
    """Steps of DDIM, Song et al. (2021), eq. 12: keep the predicted noise, lower its share, and exchange some of it.

    With eta 0 this is Euler's method too; with eta 1 it is the ancestral sampling of Ho et al. (2020), algorithm 2. So
    "ddim", "ddpm", "euler", "euler_a" and "flow_euler" differ in their grids and in eta only.
    """
    for sigma, lower in steps_of(grid):
        denoised = denoise(x, sigma)
        if lower != sigma:  # close to as many steps as there are timesteps, a grid repeats levels, infinity among them
            down, up = ancestral(sigma, lower, eta)
            x = moved(x, denoised, sigma, lower, down)
            x = stirred(x, sigma, lower, up, noise)
        yield x, denoised


def heun(denoise: Denoise, x: Array, grid: Grid, _noise: Noise) -> Walk:
    """Steps of Heun's method, Karras et al. (2022), algorithm 1; the steps to zero and from pure noise are Euler's.

    Over a step from pure noise sigma falls by thousands, and the mean of two slopes would be off by as much.
    """
    for sigma, lower in steps_of(grid):
        denoised = denoise(x, sigma)
        tried = moved(x, denoised, sigma, lower)
        if lower and sigma < PURE_NOISE:
            slopes = noise_of(x, denoised, sigma), noise_of(tried, denoise(tried, lower), lower)
            x = alpha(lower) * (x / alpha(sigma) + (lower - sigma) / 2 * (slopes[0] + slopes[1]))
        else:
            x = tried
        yield x, denoised


def flow_heun(denoise: Denoise, x: Array, grid: Grid, _noise: Noise) -> Walk:
    """Steps of Heun's method in the time t of flow models, z = (1 - t) x0 + t noise; the step to t = 0 is Euler's.

    As diffusers 0.42.1's FlowMatchHeunDiscreteScheduler. The velocity dz/dt is (z - x0) / t.
    """
    for sigma, lower in steps_of(grid):
        denoised = denoise(x, sigma)
        tried = moved(x, denoised, sigma, lower)
        if lower:
            t, s = share(sigma), share(lower)
            z = x * math.hypot(1 - t, t)
            velocities = (z - denoised) / t, (tried * math.hypot(1 - s, s) - denoise(tried, lower)) / s
            x = (z + (s - t) / 2 * (velocities[0] + velocities[1])) / math.hypot(1 - s, s)
        else:
            x = tried
        yield x, denoised


def share(sigma: float) -> float:
    """The noise's share t of a flow model's latents at the ratio `sigma` of noise to signal."""
    return 1 / (1 + 1 / sigma)


def midpoint(sigma: float, lower: float) -> float:
    """The level halfway to `lower` in log sigma.

    Of an ancestral step with eta 1 that is the next level itself, at which diffusers calls the model under a timestep
    that is not rounded, unlike the next step's. So it is kept apart, by less than float32 can tell.
    """
    return math.sqrt(sigma * lower) * (1 - 1e-12)


def dpm2(denoise: Denoise, x: Array, grid: Grid, noise: Noise, *, eta: float) -> Walk:
    """Steps of DPM-Solver-2, Lu et al. (2022a), algorithm 1, on the ODE of Karras et al. (2022): by way of a midpoint.

    "dpm2" with eta 0, "dpm2_a" with noise added. As k-diffusion and diffusers 0.42.1's KDPM2 schedulers. A step from
    pure noise is Euler's, see `heun`.
    """
    for sigma, lower in steps_of(grid):
        denoised = denoise(x, sigma)
        down, up = ancestral(sigma, lower, eta)
        if down and sigma < PURE_NOISE:
            middle = midpoint(sigma, down)
            tried = moved(x, denoised, sigma, middle)
            slope = noise_of(tried, denoise(tried, middle), middle)
            x = alpha(lower) * (x / alpha(sigma) + (down - sigma) * slope)
        else:
            x = moved(x, denoised, sigma, lower, down)
        x = stirred(x, sigma, lower, up, noise)
        yield x, denoised


def dpmpp_2s(denoise: Denoise, x: Array, grid: Grid, noise: Noise, *, eta: float) -> Walk:
    """Steps of DPM-Solver++(2S), Lu et al. (2022b), algorithm 1 with r = 1/2, with noise added: "dpmpp_2s_a".

    As k-diffusion's sample_dpmpp_2s_ancestral.
    """
    for sigma, lower in steps_of(grid):
        denoised = denoise(x, sigma)
        down, up = ancestral(sigma, lower, eta)
        target = denoised
        if down:
            middle = midpoint(sigma, down)
            target = denoise(moved(x, denoised, sigma, middle), middle)
        x = moved(x, target, sigma, lower, down)
        x = stirred(x, sigma, lower, up, noise)
        yield x, denoised


def dpmpp_sde(denoise: Denoise, x: Array, grid: Grid, noise: Noise, *, eta: float) -> Walk:
    """Steps of DPM-Solver++ with r = 1/2 on the SDE: Lu et al. (2022b), section 4, with noise in both halves.

    As k-diffusion's sample_dpmpp_sde and diffusers 0.42.1's DPMSolverSDEScheduler. Both halves draw from the same
    Brownian path, so `noise` has to know the levels that it is drawn between.
    """
    for sigma, lower in steps_of(grid):
        denoised = denoise(x, sigma)
        target = denoised
        if lower:
            middle = midpoint(sigma, lower)
            down, up = ancestral(sigma, middle, eta)
            tried = moved(x, denoised, sigma, middle, down)
            tried = stirred(tried, sigma, middle, up, noise)
            target = denoise(tried, middle)
        down, up = ancestral(sigma, lower, eta)
        x = moved(x, target, sigma, lower, down)
        x = stirred(x, sigma, lower, up, noise)
        yield x, denoised
