"""Root mean square normalization, Zhang and Sennrich (2019), eq. 4, spelt out: opset 18 has no operator for it."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x` over the root of its mean square along the last axis, times the weight; of the type of `x`.

    In float32, as squares leave fp16's range.
    """
    wide = x if x.dtype == torch.float32 else x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (normed if normed.dtype == x.dtype else normed.to(x.dtype)) * weight
