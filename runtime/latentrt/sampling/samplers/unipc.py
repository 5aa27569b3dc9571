"""UniPC: a multistep predictor, and a corrector that uses the next step's model call to mend the step before."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from latentrt.sampling.grids import Grid
from latentrt.sampling.schedule import signal_scale
from latentrt.sampling.step import Denoise, HistoryEntry, Noise, SamplerSteps, ddim_step, steps_of
from latentrt.tensors import Array


def unipc(denoise: Denoise, x: Array, grid: Grid, _noise: Noise, *, order: int, solver: str) -> SamplerSteps:
    """Steps of UniPC, Zhao et al. (2023), algorithms 5 to 8 (predicting the clean latents). order: 1 to 3.

    solver: B(h) of eq. 9, "bh1" for h, "bh2" for e^h - 1. The order falls to that of the steps that are left. As
    diffusers 0.42.1's UniPCMultistepScheduler, which with "bh1" multiplies infinity by zero in the last step.
    """
    history: deque[HistoryEntry] = deque(maxlen=order)
    start: tuple[Array, float, int] | None = None  # of the step before: its latents, its level, its order
    for i, (sigma, sigma_next) in enumerate(steps_of(grid)):
        denoised = denoise(x, sigma)
        if start is not None:
            x = multistep_step(start[0], start[1], sigma, list(history)[: start[2]], solver, (denoised, sigma))
        if sigma_next == sigma:  # close to as many steps as there are timesteps, a grid repeats levels
            start = None
        else:
            history.appendleft((denoised, sigma))
            used = min(len(history), len(grid.sigmas) - i)
            start = (x, sigma, used)
            x = multistep_step(x, sigma, sigma_next, list(history)[:used], solver)
        yield x, denoised


def multistep_step(
    x: Array,
    sigma: float,
    sigma_next: float,
    history: Sequence[HistoryEntry],
    solver: str,
    arrived: HistoryEntry | None = None,
) -> Array:
    """`x` taken from `sigma` to `sigma_next`; `seen` newest first; `arrived`, what the model saw there, corrects."""
    newest = history[0][0]
    others = [*history[1:], *([arrived] if arrived else [])]
    x = ddim_step(x, newest, sigma, sigma_next)
    if not others:
        return x
    h = math.log(sigma / sigma_next)
    ratios = [math.log(sigma / level) / h for _, level in others]
    scale = h if solver == "bh1" else -math.expm1(-h)
    weights = weights_of(ratios, h, scale)
    differences = (w / r * (latents - newest) for w, r, (latents, _) in zip(weights, ratios, others, strict=True))
    corrected: Array = x + (signal_scale(sigma_next) * scale) * sum(differences)
    return corrected


def weights_of(ratios: Sequence[float], h: float, scale: float) -> list[float]:
    """The weights of the differences: eq. 10 of the paper, solved; 1/2 where there is one, as the paper takes it."""
    if len(ratios) == 1:
        return [0.5]
    phi, factorial, right = math.expm1(-h) / -h - 1, 1, []
    for n in range(1, len(ratios) + 1):
        right.append(-phi * factorial / scale)
        factorial *= n + 1
        phi = phi / -h - 1 / factorial
    weights: list[float] = np.linalg.solve(np.vander(ratios, increasing=True).T, right).tolist()
    return weights
