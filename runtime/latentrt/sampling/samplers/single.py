"""Samplers that look no further back than the step they are in, with one model call or two."""

from __future__ import annotations

import math

from latentrt.sampling.grids import Grid
from latentrt.sampling.schedule import PURE_NOISE, signal_scale
from latentrt.sampling.step import (
    Denoise,
    Noise,
    SamplerSteps,
    add_noise,
    ancestral,
    ddim_step,
    predicted_noise,
    steps_of,
)
from latentrt.tensors import Array


def first_order(denoise: Denoise, x: Array, grid: Grid, noise: Noise, *, eta: float) -> SamplerSteps:
    """Steps of DDIM, Song et al. (2021), eq. 12: keep the predicted noise, lower its share, and exchange some of it.

    With eta 0 this is Euler's method too; with eta 1 it is the ancestral sampling of Ho et al. (2020), algorithm 2. So
    "ddim", "ddpm", "euler", "euler_a" and "flow_euler" differ in their grids and in eta only.
    """
    for sigma, sigma_next in steps_of(grid):
        denoised = denoise(x, sigma)
        if (
            sigma_next != sigma
        ):  # close to as many steps as there are timesteps, a grid repeats levels, infinity among them
            sigma_down, sigma_up = ancestral(sigma, sigma_next, eta)
            x = ddim_step(x, denoised, sigma, sigma_next, sigma_down)
            x = add_noise(x, sigma, sigma_next, sigma_up, noise)
        yield x, denoised


def heun(denoise: Denoise, x: Array, grid: Grid, _noise: Noise) -> SamplerSteps:
    """Steps of Heun's method, Karras et al. (2022), algorithm 1; the steps to zero and from pure noise are Euler's.

    Over a step from pure noise sigma falls by thousands, and the mean of two slopes would be off by as much.
    """
    for sigma, sigma_next in steps_of(grid):
        denoised = denoise(x, sigma)
        x_next = ddim_step(x, denoised, sigma, sigma_next)
        if sigma_next and sigma < PURE_NOISE:
            slopes = (
                predicted_noise(x, denoised, sigma),
                predicted_noise(x_next, denoise(x_next, sigma_next), sigma_next),
            )
            x = signal_scale(sigma_next) * (
                x / signal_scale(sigma) + (sigma_next - sigma) / 2 * (slopes[0] + slopes[1])
            )
        else:
            x = x_next
        yield x, denoised


def flow_heun(denoise: Denoise, x: Array, grid: Grid, _noise: Noise) -> SamplerSteps:
    """Steps of Heun's method in the time t of flow models, z = (1 - t) x0 + t noise; the step to t = 0 is Euler's.

    As diffusers 0.42.1's FlowMatchHeunDiscreteScheduler. The velocity dz/dt is (z - x0) / t.
    """
    for sigma, sigma_next in steps_of(grid):
        denoised = denoise(x, sigma)
        x_next = ddim_step(x, denoised, sigma, sigma_next)
        if sigma_next:
            t, s = share(sigma), share(sigma_next)
            z = x * math.hypot(1 - t, t)
            velocities = (z - denoised) / t, (x_next * math.hypot(1 - s, s) - denoise(x_next, sigma_next)) / s
            x = (z + (s - t) / 2 * (velocities[0] + velocities[1])) / math.hypot(1 - s, s)
        else:
            x = x_next
        yield x, denoised


def share(sigma: float) -> float:
    """The noise's share t of a flow model's latents at the ratio `sigma` of noise to signal."""
    return 1 / (1 + 1 / sigma)


def midpoint(sigma: float, sigma_next: float) -> float:
    """The level halfway to `sigma_next` in log sigma.

    Of an ancestral step with eta 1 that is the next level itself, at which diffusers calls the model under a timestep
    that is not rounded, unlike the next step's. So it is kept apart, by less than float32 can tell.
    """
    return math.sqrt(sigma * sigma_next) * (1 - 1e-12)


def dpm2(denoise: Denoise, x: Array, grid: Grid, noise: Noise, *, eta: float) -> SamplerSteps:
    """Steps of DPM-Solver-2, Lu et al. (2022a), algorithm 1, on the ODE of Karras et al. (2022): by way of a midpoint.

    "dpm2" with eta 0, "dpm2_a" with noise added. As k-diffusion and diffusers 0.42.1's KDPM2 schedulers. A step from
    pure noise is Euler's, see `heun`.
    """
    for sigma, sigma_next in steps_of(grid):
        denoised = denoise(x, sigma)
        sigma_down, sigma_up = ancestral(sigma, sigma_next, eta)
        if sigma_down and sigma < PURE_NOISE:
            middle = midpoint(sigma, sigma_down)
            x_next = ddim_step(x, denoised, sigma, middle)
            slope = predicted_noise(x_next, denoise(x_next, middle), middle)
            x = signal_scale(sigma_next) * (x / signal_scale(sigma) + (sigma_down - sigma) * slope)
        else:
            x = ddim_step(x, denoised, sigma, sigma_next, sigma_down)
        x = add_noise(x, sigma, sigma_next, sigma_up, noise)
        yield x, denoised


def dpmpp_2s(denoise: Denoise, x: Array, grid: Grid, noise: Noise, *, eta: float) -> SamplerSteps:
    """Steps of DPM-Solver++(2S), Lu et al. (2022b), algorithm 1 with r = 1/2, with noise added: "dpmpp_2s_a".

    As k-diffusion's sample_dpmpp_2s_ancestral.
    """
    for sigma, sigma_next in steps_of(grid):
        denoised = denoise(x, sigma)
        sigma_down, sigma_up = ancestral(sigma, sigma_next, eta)
        target = denoised
        if sigma_down:
            middle = midpoint(sigma, sigma_down)
            target = denoise(ddim_step(x, denoised, sigma, middle), middle)
        x = ddim_step(x, target, sigma, sigma_next, sigma_down)
        x = add_noise(x, sigma, sigma_next, sigma_up, noise)
        yield x, denoised


def dpmpp_sde(denoise: Denoise, x: Array, grid: Grid, noise: Noise, *, eta: float) -> SamplerSteps:
    """Steps of DPM-Solver++ with r = 1/2 on the SDE: Lu et al. (2022b), section 4, with noise in both halves.

    As k-diffusion's sample_dpmpp_sde and diffusers 0.42.1's DPMSolverSDEScheduler. Both halves draw from the same
    Brownian path, so `noise` has to know the levels that it is drawn between.
    """
    for sigma, sigma_next in steps_of(grid):
        denoised = denoise(x, sigma)
        target = denoised
        if sigma_next:
            middle = midpoint(sigma, sigma_next)
            sigma_down, sigma_up = ancestral(sigma, middle, eta)
            x_next = ddim_step(x, denoised, sigma, middle, sigma_down)
            x_next = add_noise(x_next, sigma, middle, sigma_up, noise)
            target = denoise(x_next, middle)
        sigma_down, sigma_up = ancestral(sigma, sigma_next, eta)
        x = ddim_step(x, target, sigma, sigma_next, sigma_down)
        x = add_noise(x, sigma, sigma_next, sigma_up, noise)
        yield x, denoised
