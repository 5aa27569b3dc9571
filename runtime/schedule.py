"""Noise schedules and the grids of noise levels that samplers walk down: arrays in, arrays out.

A noise level is the ratio sigma of noise to signal (Karras et al. 2022). Latents are kept at unit variance,
x = alpha * x0 + s * noise with alpha = 1 / sqrt(1 + sigma^2) and s = sigma * alpha, so that pure noise, sigma = inf, is
an ordinary value: a schedule with zero terminal SNR needs no clamping.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Spacing = Literal["leading", "trailing", "linspace"]
SigmasName = Literal["normal", "karras"]

# diffusers keeps the last sigma of its sigma-space schedulers finite with this value of alpha^2.
CLAMPED_ALPHA_SQUARED = 2.0**-24


@dataclass(frozen=True)
class NoiseSchedule:
    """The noise that a model was trained with, and how its timesteps are spaced by default."""

    train_steps: int
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
    beta_start: float
    beta_end: float
    prediction: Literal["epsilon", "v_prediction", "sample"]
    zero_terminal_snr: bool
    spacing: Spacing
    steps_offset: int
    last_alpha: Literal["one", "first"]


@dataclass(frozen=True)
class Grid:
    """One run's noise levels: step i calls the model at `timesteps[i]` and goes from `sigmas[i]` to `lowers[i]`.

    start: the factor on unit-variance noise that gives the initial latents.
    """

    timesteps: Floats
    sigmas: Floats
    lowers: Floats
    start: float = 1.0


def alpha(sigma: float) -> float:
    """The signal's share of unit-variance latents at `sigma`; 0 at infinity."""
    return 1 / math.hypot(1, sigma)


def spread(sigma: float) -> float:
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


def spaced(schedule: NoiseSchedule, steps: int, spacing: Spacing, *, extra: int = 0) -> Floats:
    """`steps` timesteps from high to low; Lin et al. (2023), table 2, as diffusers 0.42.1 computes them.

    extra: how many more points the grid is laid out for, dropped from its low end (DPM-Solver lays out one more).
    """
    last, points = schedule.train_steps, steps + extra
    if spacing == "linspace":
        times = np.linspace(0, last - 1, points)[::-1][:steps]
    elif spacing == "leading":
        times = (np.arange(points, dtype=np.float64) * max(1, last // points))[::-1][:steps] + schedule.steps_offset
    else:
        times = np.round(last - np.arange(steps) * (last / steps)) - 1
    return times.clip(0, last - 1)


def ddim_grid(schedule: NoiseSchedule, steps: int, spacing: Spacing, sigmas: SigmasName) -> Grid:
    """DDIM's grid: whole timesteps, each step going down by train_steps // steps whatever the spacing.

    With "linspace", and where `steps` does not divide `train_steps`, a step therefore ends a little beside where the
    next one starts. diffusers 0.42.1 does the same, and images are only comparable if we do.
    """
    if sigmas != "normal":
        return sigma_grid(schedule, steps, spacing, sigmas)
    table = sigma_table(schedule, clamped=False)
    times = np.round(spaced(schedule, steps, spacing))
    previous = times.astype(np.int64) - schedule.train_steps // steps
    last = 0.0 if schedule.last_alpha == "one" else table[0]
    return Grid(times, table[times.astype(np.int64)], np.where(previous >= 0, table[previous], last))


def sigma_grid(schedule: NoiseSchedule, steps: int, spacing: Spacing, sigmas: SigmasName) -> Grid:
    """Euler's grid: timesteps need not be whole, sigmas are interpolated, the last step ends at zero.

    As diffusers 0.42.1's EulerDiscreteScheduler, which starts from noise times s, not 1, unless spacing is leading.
    """
    table = sigma_table(schedule, clamped=True)
    times = spaced(schedule, steps, spacing)
    levels = np.interp(times, np.arange(len(table)), table)
    if sigmas == "karras":
        levels = karras(levels[0], levels[-1], steps)
        times = timestep_at(levels, table)
    start = 1.0 if spacing == "leading" else spread(levels[0])
    return Grid(times, levels, np.append(levels[1:], 0.0), start)


def dpm_grid(schedule: NoiseSchedule, steps: int, spacing: Spacing, sigmas: SigmasName) -> Grid:
    """DPM-Solver's grid: whole timesteps of a layout with one more point, the last step ending at zero.

    As diffusers 0.42.1's DPMSolverMultistepScheduler, whose Karras levels span the whole table.
    """
    table = sigma_table(schedule, clamped=True)
    if sigmas == "karras":
        levels = karras(table[-1], table[0], steps)
        times = np.round(timestep_at(levels, table))
    else:
        times = np.round(spaced(schedule, steps, spacing, extra=1))
        levels = table[times.astype(np.int64)]
    return Grid(times, levels, np.append(levels[1:], 0.0))


def karras(highest: float, lowest: float, steps: int, rho: float = 7.0) -> Floats:
    """`steps` noise levels from `highest` to `lowest`; Karras et al. (2022), eq. 5."""
    ramp = np.linspace(0, 1, steps)
    levels: Floats = (highest ** (1 / rho) + ramp * (lowest ** (1 / rho) - highest ** (1 / rho))) ** rho
    return levels


def timestep_at(sigmas: Floats, table: Floats) -> Floats:
    """The timesteps, not necessarily whole, at which `table` reaches `sigmas`; linear in log sigma, ends held."""
    times: Floats = np.interp(np.log(sigmas), np.log(table), np.arange(len(table), dtype=np.float64))
    return times
