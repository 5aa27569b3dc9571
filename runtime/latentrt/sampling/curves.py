"""Named curves of noise levels, for every sampler.

Each falls from the highest level to the lowest in `steps` points; the final zero is not among them. `Span` holds the
ends of a curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from latentrt.sampling.schedule import Floats, sigma_at

SigmasName = Literal[
    "normal", "karras", "exponential", "beta", "sgm_uniform", "simple", "ays", "ays_sdxl", "kl_optimal"
]
Sigmas = SigmasName | tuple[float, ...]

# Sabour et al. (2024), "Align Your Steps": ten steps for each model, and the level after them.
AYS_SD1 = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
AYS_SDXL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)


@dataclass(frozen=True)
class Span:
    """Range of a curve: its highest and lowest sigma, and sigma at every training timestep, rising."""

    highest: float
    lowest: float
    table: Floats


def karras(span: Span, steps: int, rho: float = 7.0) -> Floats:
    """Even steps in sigma^(1/7): Karras et al. (2022), eq. 5."""
    ramp = np.linspace(0, 1, steps)
    top, bottom = span.highest ** (1 / rho), span.lowest ** (1 / rho)
    levels: Floats = (top + ramp * (bottom - top)) ** rho
    return levels


def exponential(span: Span, steps: int) -> Floats:
    """Even steps in log sigma."""
    return np.exp(np.linspace(math.log(span.highest), math.log(span.lowest), steps))


def beta(span: Span, steps: int, shape: float = 0.6) -> Floats:
    """Quantiles of the beta distribution with both parameters 0.6, Lee et al. (2024), scaled to the span.

    As diffusers 0.42.1 and A1111, which scale them to sigma; the paper and ComfyUI select timesteps with them.
    """
    quantiles = beta_quantile(1 - np.linspace(0, 1, steps), shape)
    return span.lowest + quantiles * (span.highest - span.lowest)


def sgm_uniform(span: Span, steps: int) -> Floats:
    """ComfyUI's `sgm_uniform`: even steps in time from the noisiest timestep to 0, without the last point."""
    return sigma_at(np.linspace(len(span.table) - 1, 0, steps + 1)[:-1], span.table)


def simple(span: Span, steps: int) -> Floats:
    """ComfyUI's `simple`: levels of the table at even distances from its noisy end."""
    back = (np.arange(steps) * (len(span.table) / steps)).astype(np.int64)
    return span.table[len(span.table) - 1 - back]


def ays(_span: Span, steps: int) -> Floats:
    """Align Your Steps for Stable Diffusion 1.x, interpolated for other numbers of steps than 10."""
    return between(AYS_SD1, steps)


def ays_sdxl(_span: Span, steps: int) -> Floats:
    """Align Your Steps for SDXL."""
    return between(AYS_SDXL, steps)


def kl_optimal(span: Span, steps: int) -> Floats:
    """Even steps in arctan sigma: Sabour et al. (2024), theorem 3.1, as in ComfyUI."""
    return np.tan(np.linspace(math.atan(span.highest), math.atan(span.lowest), steps))


CURVES: dict[str, Callable[[Span, int], Floats]] = {
    "karras": karras,
    "exponential": exponential,
    "beta": beta,
    "sgm_uniform": sgm_uniform,
    "simple": simple,
    "ays": ays,
    "ays_sdxl": ays_sdxl,
    "kl_optimal": kl_optimal,
}


def sigmas_of_curve(sigmas: Sigmas, span: Span, steps: int) -> Floats:
    """`steps` noise levels, falling: a curve of CURVES by name, or the given levels themselves."""
    return np.array(sigmas, np.float64) if isinstance(sigmas, tuple) else CURVES[sigmas](span, steps)


def between(levels: tuple[float, ...], steps: int) -> Floats:
    """`steps` levels, interpolated log-linearly in `levels`; the last of `levels` is the end of the last step."""
    known = np.linspace(0, 1, len(levels))
    return np.exp(np.interp(np.linspace(0, 1, steps + 1), known, np.log(levels)))[:-1]


def beta_quantile(probabilities: Floats, shape: float) -> Floats:
    """The quantiles of the symmetric beta distribution, both parameters `shape`; within 1e-12 of scipy.stats.beta.ppf.

    The distribution function is inverted by bisection below 1/2, where its series converges quickly:
    x^a / B * sum of (1 - a)_n / n! x^n / (a + n), Abramowitz and Stegun 26.5.4 and 6.6.8.
    """
    lower = np.minimum(probabilities, 1 - probabilities)
    scale = math.gamma(2 * shape) / math.gamma(shape) ** 2
    low, high = np.zeros_like(lower), np.full_like(lower, 0.5)
    for _ in range(60):
        middle = (low + high) / 2
        below = scale * half_beta(middle, shape) < lower
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(probabilities > 0.5, 1 - high, low)


def half_beta(x: Floats, shape: float, terms: int = 60) -> Floats:
    """The incomplete beta function, both parameters `shape`, at `x` up to 1/2."""
    n = np.arange(terms)
    factors = np.cumprod(np.append(1.0, (n[1:] - shape) / n[1:])) / (shape + n)
    total: Floats = (x[:, np.newaxis] ** n) @ factors * x**shape
    return total
