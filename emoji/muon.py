"""Muon: momentum whose update is made orthogonal, for the matrices and convolutions of a network.

Jordan, https://kellerjordan.github.io/posts/muon/ (2024), with the scale of Liu et al., arXiv:2502.16982, equation 4,
so that learning rates are AdamW's. `torch.optim.Muon` takes matrices only and computes in bfloat16, in which processors
without instructions for it are four times slower than in float32.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of the quintic in the post above: steep at 0, near 1 after five rounds
ROUNDS = 5
RMS = 0.2  # root mean square of an update, what AdamW's usually is


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal; decoupled weight decay. Parameters have two axes or more."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Change every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._change(parameter, group)

    def _change(self, parameter: nn.Parameter, group: dict[str, float]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
        update = parameter.grad.lerp(momentum, group["momentum"]).flatten(1)
        update = orthogonal(update) * (RMS * max(update.shape) ** 0.5)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update.view(parameter.shape), alpha=-group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """Return about the nearest semi-orthogonal matrix: singular values between 0.7 and 1.2, vectors as they were.

    Five rounds of x <- (a + b x x' + c (x x')^2) x. All factors are polynomials in the first x x', so they commute: the
    rounds multiply the factors, which are small and square, and x itself only once. A third of the time for a matrix
    nine times as wide as high.
    """
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    gram = wide @ wide.T
    identity = torch.eye(len(gram), device=gram.device)
    product = identity
    for _ in range(ROUNDS):
        factor = a * identity + b * gram + c * gram @ gram
        product = factor @ product
        gram = factor @ gram @ factor
    wide = product @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T
