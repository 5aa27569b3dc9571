"""DPM-Solver++ with history: the clean latents as a polynomial in log sigma, on the ODE or on the SDE."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from latentrt.sampling.grids import Grid
from latentrt.sampling.schedule import noise_scale, signal_scale
from latentrt.sampling.step import Denoise, HistoryEntry, Noise, SamplerSteps, add_noise, ddim_step, steps_of
from latentrt.tensors import Array


def dpmpp_multistep(
    denoise: Denoise, x: Array, grid: Grid, noise: Noise, *, order: int, solver: str, eta: float, lower_last: bool
) -> SamplerSteps:
    """Steps of DPM-Solver++, Lu et al. (2022b), algorithm 2 and appendix A; with eta, of its SDE form, section 4.

    order: 1 to 3. solver: how a step of second order takes its slope, "midpoint" or "heun". lower_last: in a run of
    under 15 steps, the order falls to that of the steps that are left. The step to zero is of first order always.

    "dpmpp_2m" and "dpmpp_2m_sde" are diffusers 0.42.1's DPMSolverMultistepScheduler. "dpmpp_3m_sde" is k-diffusion's
    sample_dpmpp_3m_sde: in diffusers' third order on the SDE the second difference has the wrong sign in one term.
    """
    lowering = lower_last and grid.total_steps < 15
    history: deque[HistoryEntry] = deque(maxlen=order)
    for i, (sigma, sigma_next) in enumerate(steps_of(grid)):
        denoised = denoise(x, sigma)
        if not sigma_next:
            x = ddim_step(x, denoised, sigma, sigma_next)
        elif sigma_next != sigma:  # close to as many steps as there are timesteps, a grid repeats levels
            history.appendleft((denoised, sigma))
            used = list(history)[: len(grid.sigmas) - i if lowering else order]
            h = math.log(sigma / sigma_next)
            kept = noise_scale(sigma_next) / noise_scale(sigma) * math.exp(-eta * h)
            x = kept * x + signal_scale(sigma_next) * multistep_integral(used, h, (1 + eta) * h, solver)
            x = add_noise(x, sigma, sigma_next, sigma_next * math.sqrt(-math.expm1(-2 * eta * h)), noise)
        yield x, denoised


def multistep_integral(history: Sequence[HistoryEntry], h: float, decay: float, solver: str) -> Array:
    """The integral of the clean latents over a step of `h` in log sigma, under a weight that falls by e^-decay.

    The polynomial goes through all of `seen`, newest first, one to three. Lu et al. (2022a), eq. 3.6, in D1 and D2. D2
    is half of the second derivative, and weighed as if it were all of it, in the authors' code, diffusers, k-diffusion
    and so here: "order 3" converges with the second order, from a smaller error.
    """
    newest, sigma = history[0]
    whole = -math.expm1(-decay)
    total = whole * newest
    if len(history) == 1:
        return total
    first = 1 - whole / decay
    before, sigma_before = history[1]
    ratio = math.log(sigma_before / sigma) / h
    slope = (newest - before) / ratio
    if len(history) == 2:
        weight = first if solver == "heun" else whole / 2
        return total + weight * slope
    oldest, sigma_oldest = history[2]
    ratio_before = math.log(sigma_oldest / sigma_before) / h
    bend = (slope - (before - oldest) / ratio_before) / (ratio + ratio_before)
    return total + first * (slope + ratio * bend) - (first / decay - 0.5) * bend
