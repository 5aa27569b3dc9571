"""Classifier-free guidance: its scale at each step, and the guided prediction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from latentrt.tensors import Array

EVERYWHERE = (0.0, float("inf"))


@dataclass(frozen=True)
class Guidance:
    """Guidance of a run.

    scales: one per step; 1 or less gives the conditional prediction alone, as in diffusers (the paper's w is
    scale - 1). interval: the lowest and highest sigma with guidance, Kynkaanniemi et al. (2024), eq. 5. rescale: phi of
    Lin et al. (2023), eq. 16. image: image guidance scale, s_I of Brooks et al. (2023), eq. 3; 1 for a UNet without an
    image among its inputs.
    """

    scales: tuple[float, ...]
    interval: tuple[float, float] = EVERYWHERE
    rescale: float = 0.0
    image: float = 1.0

    def at(self, step: int, sigma: float) -> float:
        """The scale for a call of the model at `sigma` in a step."""
        low, high = self.interval
        return max(1.0, self.scales[step]) if low <= sigma <= high else 1.0

    def works(self, sigmas: Iterable[float]) -> bool:
        """True if a call of the model at one of these levels may be guided."""
        low, high = self.interval
        return max(self.scales) > 1 and any(low <= sigma <= high for sigma in sigmas)


def guided(
    negative: Array,
    positives: Sequence[tuple[float, Array]],
    scale: float,
    rescale: float = 0.0,
    image: Array | float = 0.0,
) -> Array:
    """The guided prediction: Ho and Salimans (2022), eq. 6; for several prompts, Liu et al. (2022), eq. 11.

    positives: the weight and the prediction of each prompt, as the negative one (batch, channels, height, width).
    image: the term of image guidance, added.
    """
    direction = sum_of([(weight, prediction - negative) for weight, prediction in positives])
    combined: Array = negative + scale * direction + image
    return rescaled(combined, negative + direction, rescale) if rescale else combined


def sum_of(weighted: Sequence[tuple[float, Array]]) -> Array:
    """Weighted sum of at least one array; a weight of 1 needs no multiplication."""
    terms = [array if weight == 1 else weight * array for weight, array in weighted]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def rescaled(guided: Array, conditional: Array, phi: float) -> Array:
    """`guided` rescaled towards the standard deviation of the conditional prediction, image by image.

    Lin et al. (2023), eqs. 14 to 16; as diffusers 0.42.1's rescale_noise_cfg. phi: strength, from 0 (off) to 1.
    """
    axes = tuple(range(1, guided.ndim))
    ratio = conditional.std(axes, keepdims=True) / guided.std(axes, keepdims=True)
    scaled: Array = guided * (phi * ratio + (1 - phi)).astype(np.float32)
    return scaled
