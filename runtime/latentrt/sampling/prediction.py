"""Prediction types: denoised latents from a model's output, and the scale of its input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from latentrt.sampling.schedule import noise_scale, signal_scale
from latentrt.tensors import Array


def from_epsilon(x: Array, prediction: Array, sigma: float) -> Array:
    """The model predicts the noise: Ho et al. (2020), eq. 15. Undefined at sigma = inf, where x holds no signal."""
    return (x - noise_scale(sigma) * prediction) / signal_scale(sigma)


def from_v(x: Array, prediction: Array, sigma: float) -> Array:
    """The model predicts v = alpha * noise - s * x0: Salimans and Ho (2022), appendix D."""
    return signal_scale(sigma) * x - noise_scale(sigma) * prediction


def from_sample(_x: Array, prediction: Array, _sigma: float) -> Array:
    """The model predicts the clean latents themselves."""
    return prediction


def from_flow(x: Array, prediction: Array, sigma: float) -> Array:
    """The model predicts noise - x0, the velocity of z = (1 - t) x0 + t noise: Liu et al. (2023), eq. 1."""
    return flow_scale(sigma) * x - prediction / (1 + 1 / sigma)


def flow_scale(sigma: float) -> float:
    """The factor from unit-variance latents to a flow model's z; 1 at infinity."""
    return math.hypot(1 / (1 + sigma), 1 / (1 + 1 / sigma))


def unscaled(_sigma: float) -> float:
    """The factor of models that take unit-variance latents: 1."""
    return 1.0


@dataclass(frozen=True)
class Prediction:
    """A prediction type: clean latents from (x, prediction, sigma), and the factor on x for the model's input."""

    denoised: Callable[[Array, Array, float], Array]
    scale: Callable[[float], float] = unscaled


PREDICTIONS = {
    "epsilon": Prediction(from_epsilon),
    "v_prediction": Prediction(from_v),
    "sample": Prediction(from_sample),
    "flow_prediction": Prediction(from_flow, flow_scale),
}
