"""Grids of noise levels, each as the sampler's reference implementation computes it.

Images are comparable only with equal levels, so the peculiarities of the references are kept and named here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from latentrt.errors import RequestError
from latentrt.sampling.curves import Sigmas, Span, sigmas_of_curve
from latentrt.sampling.schedule import (
    Floats,
    NoiseSchedule,
    Spacing,
    flow_sigmas,
    flow_times,
    noise_scale,
    sigma_table,
    timestep_at,
)

# Number of steps that LCM and TCD are distilled at; inference uses some of them (diffusers' original_inference_steps).
DISTILLED_STEPS = 50


def cut(times: Floats) -> Floats:
    """Timesteps truncated to whole ones; 999 becomes 998 too, as float32 makes it 998.99997 in diffusers."""
    return np.floor(times - 1e-4).clip(0)


Rounding = Mapping[Sigmas, Callable[[Floats], Floats]]
# diffusers' solvers have whole timesteps; those of some curves are rounded, of others truncated.
DPM_ROUNDING: Rounding = {"karras": np.round, "exponential": cut, "beta": cut}
KDPM_ROUNDING: Rounding = {"karras": np.round}


@dataclass(frozen=True)
class Grid:
    """One run's noise levels: step i calls the model at `timesteps[i]` and goes from `sigmas[i]` to `sigmas_next[i]`.

    table: sigma at every training timestep, rising. start: factor from unit-variance noise to the initial latents.
    total_steps: number of steps of the whole grid, before `sliced`.
    """

    timesteps: Floats
    sigmas: Floats
    sigmas_next: Floats
    table: Floats
    start: float = 1.0
    total_steps: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "total_steps", self.total_steps or len(self.sigmas))

    def sliced(self, skipped: int, end: int | None = None) -> Grid:
        """The grid without its first `skipped` steps, for a run from a noised image, and without those from `end`."""
        part = slice(skipped, end)
        return replace(
            self, timesteps=self.timesteps[part], sigmas=self.sigmas[part], sigmas_next=self.sigmas_next[part]
        )


def timestep_spacing(schedule: NoiseSchedule, steps: int, spacing: Spacing, *, extra: int = 0) -> Floats:
    """`steps` timesteps from high to low; Lin et al. (2023), table 2, as diffusers 0.42.1 computes them.

    extra: number of further points that the grid is computed with, dropped at its low end (DPM-Solver has one).
    """
    last, points = schedule.train_steps, steps + extra
    if spacing == "linspace":
        times = np.linspace(0, last - 1, points)[::-1][:steps]
    elif spacing == "leading":
        times = (np.arange(points, dtype=np.float64) * max(1, last // points))[::-1][:steps] + schedule.steps_offset
    else:
        times = np.round(last - np.arange(steps) * (last / steps)) - 1
    return times.clip(0, last - 1)


def original_stride(steps: int, train_steps: int) -> int:
    """The distance of two timesteps in the grid of the latent diffusion paper's code, which is asked for `steps`.

    Raises RequestError for a grid that goes beyond the last timestep, where that code fails.
    """
    stride = train_steps // steps
    if original_length(steps, train_steps) * stride - stride + 1 < train_steps:
        return stride
    fitting = [n for n in range(1, train_steps + 1) if (train_steps - 1) % (train_steps // n)]
    nearest = sorted(sorted(fitting, key=lambda n: abs(n - steps))[:2])
    raise RequestError(
        f"steps: got {steps} with compvis spacing, whose grid goes beyond the last of {train_steps} timesteps; "
        f"the nearest that fit are {' and '.join(map(str, nearest))}"
    )


def original_length(steps: int, train_steps: int) -> int:
    """The number of steps that the paper's code runs when it is asked for `steps`: more, unless they divide."""
    return -(-train_steps // (train_steps // steps))


def original_grid(schedule: NoiseSchedule, steps: int, table: Floats) -> Grid:
    """The grid of DDIM and PLMS in the latent diffusion paper's code (CompVis): every `stride`th timestep from 1 on.

    Every step ends at the start of the next, the last at the table's first level.
    """
    stride = original_stride(steps, schedule.train_steps)
    times = (np.arange(original_length(steps, schedule.train_steps)) * stride + 1)[::-1]
    levels = table[times]
    return Grid(times.astype(np.float64), levels, np.append(levels[1:], table[0]), table)


def ddim_grid(schedule: NoiseSchedule, steps: int, spacing: Spacing, sigmas: Sigmas, *, clamped: bool = False) -> Grid:
    """DDIM's grid: whole timesteps, each step going down by train_steps // steps for every spacing.

    So with "linspace", or if `steps` does not divide `train_steps`, a step does not end exactly at the start of the
    next. This is kept as in diffusers 0.42.1, so that images are comparable.
    """
    if sigmas != "normal":
        return dpm_grid(schedule, steps, spacing, sigmas)
    table = sigma_table(schedule, clamped=clamped)
    if spacing == "compvis":
        return original_grid(schedule, steps, table)
    times = np.round(timestep_spacing(schedule, steps, spacing))
    previous = times.astype(np.int64) - schedule.train_steps // steps
    last = 0.0 if schedule.last_alpha == "one" else table[0]
    return Grid(times, table[times.astype(np.int64)], np.where(previous >= 0, table[previous], last), table)


def ddpm_grid(schedule: NoiseSchedule, steps: int, spacing: Spacing, sigmas: Sigmas) -> Grid:
    """DDPM's grid: whole timesteps; every step ends at the start of the next, the last at zero."""
    if sigmas != "normal":
        return dpm_grid(schedule, steps, spacing, sigmas)
    table = sigma_table(schedule, clamped=False)
    times = np.round(timestep_spacing(schedule, steps, spacing))
    levels = table[times.astype(np.int64)]
    return Grid(times, levels, np.append(levels[1:], 0.0), table)


def sigma_grid(
    schedule: NoiseSchedule, steps: int, spacing: Spacing, sigmas: Sigmas, *, rounding: Rounding | None = None
) -> Grid:
    """The grid of Euler's method and its variants: fractional timesteps, interpolated sigmas, the last one zero.

    As diffusers 0.42.1's EulerDiscreteScheduler: Karras, exponential and beta levels lie between the ends of the spaced
    ones, and initial noise is multiplied by noise_scale, not 1, unless spacing is leading.
    """
    table = sigma_table(schedule, clamped=True)
    times = timestep_spacing(schedule, steps, spacing)
    levels = np.interp(times, np.arange(len(table)), table)
    if sigmas != "normal":
        levels = sigmas_of_curve(sigmas, Span(levels[0], levels[-1], table), steps)
        times = (rounding or {}).get(sigmas, np.asarray)(timestep_at(levels, table))
    start = 1.0 if spacing == "leading" else noise_scale(levels[0])
    return Grid(times, levels, np.append(levels[1:], 0.0), table, start)


kdpm_grid = partial(sigma_grid, rounding=KDPM_ROUNDING)


def dpm_grid(schedule: NoiseSchedule, steps: int, spacing: Spacing, sigmas: Sigmas) -> Grid:
    """DPM-Solver's grid: whole timesteps, computed with one more point; the last step ends at zero.

    As diffusers 0.42.1's DPMSolverMultistepScheduler, whose Karras, exponential and beta levels span the whole table.
    """
    table = sigma_table(schedule, clamped=True)
    if sigmas == "normal":
        times = np.round(timestep_spacing(schedule, steps, spacing, extra=1))
        levels = table[times.astype(np.int64)]
    else:
        levels = sigmas_of_curve(sigmas, Span(table[-1], table[0], table), steps)
        times = DPM_ROUNDING.get(sigmas, np.asarray)(timestep_at(levels, table))
    return Grid(times, levels, np.append(levels[1:], 0.0), table)


def deis_grid(schedule: NoiseSchedule, steps: int, spacing: Spacing, sigmas: Sigmas) -> Grid:
    """DPM-Solver's grid, but ending at the table's lowest level, never at zero.

    As diffusers 0.42.1's DEISMultistepScheduler: with Karras, exponential and beta levels, whose last one is the lowest
    already, the last step changes nothing. (With one step diffusers returns the noise; here the step is taken.)
    """
    return above_zero(dpm_grid(schedule, steps, spacing, sigmas))


def lcm_grid(schedule: NoiseSchedule, steps: int, spacing: Spacing, sigmas: Sigmas) -> Grid:
    """The grid of consistency models: evenly selected from the timesteps of their distillation, for every spacing.

    As diffusers 0.42.1's LCMScheduler. Raises RequestError for more steps than the distillation has.
    """
    if sigmas != "normal":
        return dpm_grid(schedule, steps, spacing, sigmas)
    known = min(DISTILLED_STEPS, schedule.train_steps)
    if steps > known:
        raise RequestError(f"steps: got {steps}, expected at most {known}, the steps that LCM and TCD are distilled at")
    table = sigma_table(schedule, clamped=False)
    distilled = np.arange(known, 0, -1) * (schedule.train_steps // known) - 1
    times = distilled[np.floor(np.linspace(0, known, steps, endpoint=False)).astype(np.int64)]
    levels = table[times]
    return Grid(times.astype(np.float64), levels, np.append(levels[1:], 0.0), table)


def tcd_grid(schedule: NoiseSchedule, steps: int, spacing: Spacing, sigmas: Sigmas) -> Grid:
    """LCM's grid, but ending at the lowest level of the table, as diffusers 0.42.1's TCDScheduler."""
    return above_zero(lcm_grid(schedule, steps, spacing, sigmas))


def above_zero(grid: Grid) -> Grid:
    """The grid with its last step ending at the table's lowest level, not zero; from that level it stays there."""
    lowest, last = grid.table[0], grid.sigmas[-1]
    end = lowest if last > lowest * (1 + 1e-6) else last  # curves end at the lowest level except for rounding
    return replace(grid, sigmas_next=np.append(grid.sigmas_next[:-1], end))


def flow_grid(schedule: NoiseSchedule, steps: int, _spacing: Spacing, sigmas: Sigmas) -> Grid:
    """The grid of flow models: even steps in time, shifted; curves and lists give the flow time t, up to 1.

    As diffusers 0.42.1's FlowMatchEulerDiscreteScheduler, which shifts the lowest time twice: its steps are even
    between 1 and a time that is shifted already. Where the shift follows from the size, the last step is as long as the
    others, as its pipelines ask for.
    """
    whole = np.arange(1, schedule.train_steps + 1) / schedule.train_steps
    table = flow_times(schedule, whole)
    lowest = table[0] if schedule.size_shift == "none" else 1 / steps
    times = flow_times(schedule, np.linspace(1, lowest, steps))
    if sigmas != "normal":
        times = sigmas_of_curve(sigmas, Span(times[0], times[-1], table), steps)
    if times[0] > 1:
        raise RequestError(f"sigmas: got {sigmas}, expected levels up to 1 for a flow model, for example normal")
    levels = flow_sigmas(times)
    return Grid(times * schedule.train_steps, levels, np.append(levels[1:], 0.0), flow_sigmas(table))
