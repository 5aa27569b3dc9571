"""Label maps as channels of latents: the paper's SpatialRescaler, Rombach et al. (2022)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SegmentationEncoder(nn.Module):
    """labels int64 (batch, factor * h, factor * w) -> (batch, channels, h, w).

    The original halves one-hot labels bilinearly and maps them to channels. On sizes that are multiples of the factor,
    that is a look-up and the mean of squares.
    """

    def __init__(self, mapper: nn.Conv2d, factor: int) -> None:
        super().__init__()
        self.table = nn.Parameter(mapper.weight[:, :, 0, 0].T.contiguous(), requires_grad=False)
        self.factor = factor

    def forward(self, labels: Tensor) -> Tensor:
        """The channels."""
        return F.avg_pool2d(self.table[labels].permute(0, 3, 1, 2), self.factor)


def rescaled(mapper: nn.Conv2d, labels: Tensor, factor: int) -> Tensor:
    """The channels of labels as the original makes them."""
    channels = F.one_hot(labels, mapper.in_channels).permute(0, 3, 1, 2).float()
    while factor > 1:
        channels, factor = F.interpolate(channels, scale_factor=0.5, mode="bilinear", align_corners=False), factor // 2
    with torch.no_grad():
        found: Tensor = mapper(channels)
    return found
