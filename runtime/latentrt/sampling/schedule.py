"""Noise schedules: how much noise each training timestep holds; arrays in, arrays out.

A noise level is the ratio sigma of noise to signal (Karras et al. 2022). Latents are kept at unit variance,
x = alpha * x0 + s * noise with alpha = 1 / sqrt(1 + sigma^2) and s = sigma * alpha, so that pure noise, sigma = inf, is
an ordinary value: a schedule with zero terminal SNR needs no clamping.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Spacing = Literal["leading", "trailing", "linspace", "compvis"]
SizeShift = Literal["none", "flux2"]

# diffusers keeps the last sigma of its sigma-space schedulers finite with this value of alpha^2.
CLAMPED_ALPHA_SQUARED = 2.0**-24
# The sigma of that: latents at or above it are pure noise but for the clamping.
PURE_NOISE = 4095.0


@dataclass(frozen=True)
class NoiseSchedule:
    """The noise that a model was trained with, and how its timesteps are spaced by default.

    shift: of a flow model's times, Esser et al. (2024), section 5.3.2; its betas are not used. size_shift: the rule by
    which the shift follows from a run's latents and steps instead; see `for_size`.
    """

    train_steps: int
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
    beta_start: float
    beta_end: float
    prediction: Literal["epsilon", "v_prediction", "sample", "flow_prediction"]
    zero_terminal_snr: bool
    spacing: Spacing
    steps_offset: int
    last_alpha: Literal["one", "first"]
    shift: float = 1.0
    size_shift: SizeShift = "none"

    def for_size(self, latents: int, steps: int) -> NoiseSchedule:
        """The schedule with the shift of a run. latents: those of the picture."""
        return self if self.size_shift == "none" else replace(self, shift=flux2_shift(latents, steps))


def flux2_shift(latents: int, steps: int) -> float:
    """The shift of FLUX.2's times: `compute_empirical_mu` of diffusers 0.42.1's Flux2KleinPipeline, as its exponential.

    Its logarithm is fitted: linear in the latents at 10 and at 200 steps, and between these linear in the steps; beyond
    4300 latents, steps make no difference.
    """
    at_10, at_200 = 8.73809524e-05 * latents + 1.89833333, 0.00016927 * latents + 0.45666666
    slope = (at_200 - at_10) / 190
    return math.exp(at_200 if latents > 4300 else slope * steps + at_200 - 200 * slope)


def signal_scale(sigma: float) -> float:
    """The signal's share of unit-variance latents at `sigma`; 0 at infinity."""
    return 1 / math.hypot(1, sigma)


def noise_scale(sigma: float) -> float:
    """The noise's share of unit-variance latents at `sigma`; 1 at infinity."""
    return 1 / math.hypot(1, 1 / sigma) if sigma else 0.0


def alphas_squared(schedule: NoiseSchedule) -> Floats:
    """The cumulative products of 1 - beta, (train_steps,), in [0, 1].

    Ho et al. (2020), eq. 4; "scaled_linear" is Rombach et al. (2022), the cosine is Nichol and Dhariwal (2021), eq. 17;
    zero terminal SNR is Lin et al. (2023), algorithm 1. Follows diffusers 0.42.1, in float64 where that uses float32.
    """
    products = np.cumprod(1 - BETAS[schedule.beta_schedule](schedule), dtype=np.float64)
    if schedule.zero_terminal_snr:
        roots = np.sqrt(products)
        products = np.square((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1])))
    return products


def linear_betas(schedule: NoiseSchedule) -> Floats:
    """Betas in even steps."""
    return np.linspace(schedule.beta_start, schedule.beta_end, schedule.train_steps)


def scaled_linear_betas(schedule: NoiseSchedule) -> Floats:
    """Betas whose square roots are in even steps."""
    return np.linspace(schedule.beta_start**0.5, schedule.beta_end**0.5, schedule.train_steps) ** 2


def cosine_betas(schedule: NoiseSchedule) -> Floats:
    """Betas of a squared cosine, capped at 0.999."""
    time = np.linspace(0, 1, schedule.train_steps + 1)
    products = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
    betas: Floats = np.minimum(1 - products[1:] / products[:-1], 0.999)
    return betas


BETAS: dict[str, Callable[[NoiseSchedule], Floats]] = {
    "linear": linear_betas,
    "scaled_linear": scaled_linear_betas,
    "squaredcos_cap_v2": cosine_betas,
}


def sigma_table(schedule: NoiseSchedule, *, clamped: bool) -> Floats:
    """sigma at every training timestep, (train_steps,), rising; the last is inf with zero terminal SNR.

    clamped: make that last one finite, 4096, as diffusers' sigma-space schedulers do.
    """
    products = alphas_squared(schedule)
    if clamped and schedule.zero_terminal_snr:
        products[-1] = CLAMPED_ALPHA_SQUARED
    with np.errstate(divide="ignore"):
        sigmas: Floats = np.sqrt((1 - products) / products)
    return sigmas


def flow_times(schedule: NoiseSchedule, times: Floats) -> Floats:
    """The noise's share t of a flow model's latents, (1 - t) x0 + t noise, at `times` in (0, 1] once shifted.

    Esser et al. (2024), eq. 23.
    """
    shifted: Floats = schedule.shift * times / (1 + (schedule.shift - 1) * times)
    return shifted


def flow_sigmas(shares: Floats) -> Floats:
    """The ratio of noise to signal where noise has a share t of a flow model's latents: t / (1 - t), inf at t = 1."""
    with np.errstate(divide="ignore"):
        sigmas: Floats = shares / (1 - shares)
    return sigmas


def timestep_at(sigmas: Floats, table: Floats) -> Floats:
    """The timesteps, not necessarily whole, at which `table` reaches `sigmas`; linear in log sigma, ends held."""
    times: Floats = np.interp(np.log(sigmas), np.log(table), np.arange(len(table), dtype=np.float64))
    return times


def sigma_at(times: Floats, table: Floats) -> Floats:
    """The sigmas of timesteps that need not be whole; linear in log sigma, the inverse of `timestep_at`."""
    sigmas: Floats = np.exp(np.interp(times, np.arange(len(table), dtype=np.float64), np.log(table)))
    return sigmas
