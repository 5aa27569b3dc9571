"""What a model's output says about the clean latents, for each prediction type."""

from __future__ import annotations

from collections.abc import Callable

from latentrt.schedule import alpha, spread
from latentrt.tensors import Array


def from_epsilon(x: Array, prediction: Array, sigma: float) -> Array:
    """The model predicts the noise: Ho et al. (2020), eq. 15. Undefined at sigma = inf, where x holds no signal."""
    return (x - spread(sigma) * prediction) / alpha(sigma)


def from_v(x: Array, prediction: Array, sigma: float) -> Array:
    """The model predicts v = alpha * noise - s * x0: Salimans and Ho (2022), appendix D."""
    return alpha(sigma) * x - spread(sigma) * prediction


def from_sample(_x: Array, prediction: Array, _sigma: float) -> Array:
    """The model predicts the clean latents themselves."""
    return prediction


DENOISED: dict[str, Callable[[Array, Array, float], Array]] = {
    "epsilon": from_epsilon,
    "v_prediction": from_v,
    "sample": from_sample,
}
