"""Weights of linear layers held in half precision while a component is exported in w16: half the memory.

The layers compute in float32. A traced graph has these weights in fp16 behind a Cast, the form that w16 stores, so that
they are never whole in float32. It is for modules whose linear layers are only called, such as those of transformers;
others compute with their weights before they are traced.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class InFloat32(nn.Module):
    """A weight, in float32 whenever it is read."""

    def forward(self, stored: Tensor) -> Tensor:
        """The weight in float32."""
        return stored.float()


def linear_weights(module: nn.Module) -> frozenset[str]:
    """The names of the weights of all linear layers."""
    return frozenset(f"{name}.weight" for name, one in module.named_modules() if isinstance(one, nn.Linear))


def compute_in_float32(module: nn.Module) -> None:
    """Makes the linear layers whose weights are in half precision compute in float32, in place."""
    for one in list(module.modules()):
        if isinstance(one, nn.Linear) and one.weight.dtype == torch.float16:
            parametrize.register_parametrization(one, "weight", InFloat32(), unsafe=True)  # the type is another one
