"""Building blocks of samplers: the model and noise as functions, DDIM's step, ancestral noise levels.

A sampler is a generator that yields one (latents, denoised) pair per step of a grid of noise levels. It calls the model
as `denoised = denoise(x, sigma)` and draws fresh noise as `noise(sigma, sigma_next)`; prediction types, guidance, seeds
and engines are handled outside. `x` is float32, (batch, channels, height, width), unit variance:
x = signal_scale * x0 + noise_scale * noise (see `schedule`). The y = x0 + sigma * noise of Karras et al. (2022) is
x / signal_scale(sigma). A sampler's history lives in local variables: a run can be dropped at any step, and two runs
share nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from latentrt.sampling.grids import Grid
from latentrt.sampling.schedule import noise_scale, signal_scale
from latentrt.tensors import Array

Denoise = Callable[[Array, float], Array]
Noise = Callable[[float, float], Array]
SamplerSteps = Iterator[tuple[Array, Array]]
HistoryEntry = tuple[Array, float]  # denoised latents, and the sigma of the model call that gave them


def steps_of(grid: Grid) -> Iterator[tuple[float, float]]:
    """(sigma, sigma_next) of each step as Python floats, which keep float32 arrays float32."""
    return zip(grid.sigmas.tolist(), grid.sigmas_next.tolist(), strict=True)


def ddim_step(x: Array, denoised: Array, sigma: float, sigma_next: float, sigma_down: float | None = None) -> Array:
    """`x` taken from `sigma` to `sigma_next` as if `denoised` were the clean latents: DDIM, Song et al. (2021), eq. 12.

    This is also Euler's method on the ODE of Karras et al. (2022), eq. 4, and DPM-Solver++ of first order.
    sigma_down: level of the noise that is kept; smaller than `sigma_next` where the caller adds noise afterwards.
    """
    sigma_down = sigma_next if sigma_down is None else sigma_down
    return (signal_scale(sigma_next) * sigma_down / noise_scale(sigma)) * x + (
        signal_scale(sigma_next) * (1 - sigma_down / sigma)
    ) * denoised


def predicted_noise(x: Array, denoised: Array, sigma: float) -> Array:
    """Unit-variance noise in `x`, if `denoised` are its clean latents: dy/dsigma, the `d` of k-diffusion's to_d."""
    return (x - signal_scale(sigma) * denoised) / noise_scale(sigma)


def ancestral(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """(sigma_down, sigma_up): levels of the noise to keep and to add; their squares add up to sigma_next^2.

    eta: 0 adds none; 1 adds what the reverse process of Ho et al. (2020) does. DDIM's eta, Song et al. (2021), eq. 16,
    and k-diffusion's get_ancestral_step are the same.
    """
    sigma_up = min(sigma_next, eta * sigma_next * math.sqrt(max(0.0, 1 - (sigma_next / sigma) ** 2)))
    return math.sqrt(sigma_next**2 - sigma_up**2), sigma_up


def add_noise(x: Array, sigma: float, sigma_next: float, sigma_up: float, noise: Noise) -> Array:
    """`x` with noise of level `sigma_up` added, both at `sigma_next`; at 0, no noise is drawn."""
    return x + (signal_scale(sigma_next) * sigma_up) * noise(sigma, sigma_next) if sigma_up else x
