"""The residuals that a UNet adds to its skips: ControlNet, Zhang et al. (2023).

Residuals travel packed by level, the number of times that the sides were halved: side by side along the channels, in
the order of the skips, the middle's last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TypeAlias

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor

from latentrt.tensors import TensorSpec

Network: TypeAlias = ControlNetModel | UNet2DConditionModel
# The level and the channels of every residual, the middle's last.
Layout: TypeAlias = tuple[tuple[int, int], ...]


def layout_of(network: Network) -> Layout:
    """Returns where a network's residuals belong: the same for a UNet and all that fit it."""
    level, found = 0, [(0, network.conv_in.out_channels)]
    for block in network.down_blocks:
        found += [(level, resnet.out_channels) for resnet in block.resnets]
        if block.downsamplers is not None:
            level += 1
            found.append((level, block.downsamplers[0].out_channels))
    return (*found, found[-1])


def residual_specs(layout: Layout) -> tuple[TensorSpec, ...]:
    """Returns the packed residuals of every level."""
    widths = {level: sum(channels for _, channels in group) for level, group in groupby(layout, lambda one: one[0])}
    return tuple(
        TensorSpec(f"residual_{level}", "float32", ("batch", width, *sides_at(level)))
        for level, width in widths.items()
    )


def sides_at(level: int) -> tuple[str, str]:
    """The axes of features whose sides were halved so often, and rounded up each time."""
    height, width = (f"{side}/{2**level}" if level else side for side in ("height", "width"))
    return height, width


def packed(residuals: Sequence[Tensor], layout: Layout) -> tuple[Tensor, ...]:
    """The residuals of each level side by side."""
    pairs = zip(layout, residuals, strict=True)
    return tuple(torch.cat([one for _, one in group], 1) for _, group in groupby(pairs, lambda pair: pair[0][0]))


def unpacked(levels: Sequence[Tensor], layout: Layout) -> Iterator[Tensor]:
    """Yields every residual of packed levels."""
    starts = [0] * len(levels)
    for level, channels in layout:
        yield levels[level][:, starts[level] : starts[level] + channels]
        starts[level] += channels
