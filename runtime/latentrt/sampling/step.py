"""What every sampler is made of: the model and the noise as it sees them, and the one move they all share.

A sampler is a generator that walks latents down a grid of noise levels, one (latents, denoised) pair a step. It sees
the model as `denoised = denoise(x, sigma)` and fresh noise as `noise(sigma, lower)`; prediction types, guidance, seeds
and engines are adapted outside. `x` is float32, (batch, channels, height, width), unit variance:
x = alpha * x0 + s * noise (see `schedule`). The papers' y = x0 + sigma * noise is x / alpha. History lives in local
variables, so a run can be dropped at any step and two runs never meet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from latentrt.sampling.grids import Grid
from latentrt.sampling.schedule import alpha, spread
from latentrt.tensors import Array

Denoise = Callable[[Array, float], Array]
Noise = Callable[[float, float], Array]
Walk = Iterator[tuple[Array, Array]]
Seen = tuple[Array, float]  # clean latents, and the level at which the model saw them


def steps_of(grid: Grid) -> Iterator[tuple[float, float]]:
    """The (sigma, lower) of each step as plain floats, which leave float32 arrays as they are."""
    return zip(grid.sigmas.tolist(), grid.lowers.tolist(), strict=True)


def moved(x: Array, denoised: Array, sigma: float, lower: float, down: float | None = None) -> Array:
    """`x` taken from `sigma` to `lower` as if `denoised` were the clean latents: DDIM, Song et al. (2021), eq. 12.

    This is also Euler's method on the ODE of Karras et al. (2022), eq. 4, and DPM-Solver++ of first order. down: the
    level of the noise that is kept, `lower` itself unless the caller adds noise to make up for the rest.
    """
    down = lower if down is None else down
    return (alpha(lower) * down / spread(sigma)) * x + (alpha(lower) * (1 - down / sigma)) * denoised


def noise_of(x: Array, denoised: Array, sigma: float) -> Array:
    """The noise in `x`, of unit variance, if `denoised` is the rest: the derivative of y by sigma."""
    return (x - alpha(sigma) * denoised) / spread(sigma)


def ancestral(sigma: float, lower: float, eta: float) -> tuple[float, float]:
    """How much noise to keep and how much to add on the way to `lower`: (down, up), down^2 + up^2 = lower^2.

    eta: 0 adds none; 1 adds what the reverse process of Ho et al. (2020) does. DDIM's eta, Song et al. (2021), eq. 16,
    and k-diffusion's ancestral step are this same number.
    """
    up = min(lower, eta * lower * math.sqrt(max(0.0, 1 - (lower / sigma) ** 2)))
    return math.sqrt(lower**2 - up**2), up


def stirred(x: Array, sigma: float, lower: float, up: float, noise: Noise) -> Array:
    """`x` at `lower` with noise of the level `up` added; where that is 0, `x` as it is, and no noise is drawn."""
    return x + (alpha(lower) * up) * noise(sigma, lower) if up else x
