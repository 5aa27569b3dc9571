"""Residuals of ControlNets, Zhang et al. (2023), which a UNet adds to its skips.

Residuals are packed by level (number of downsamplings): concatenated along the channels in the order of the skips, the
middle block's last.
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
    """Returns the levels and channels of a network's residuals: the same for a UNet and its ControlNets."""
    level, found = 0, [(0, network.conv_in.out_channels)]
    for block in network.down_blocks:
        found += [(level, resnet.out_channels) for resnet in block.resnets]
        if block.downsamplers is not None:
            level += 1
            found.append((level, block.downsamplers[0].out_channels))
    return (*found, found[-1])


def residual_specs(layout: Layout) -> tuple[TensorSpec, ...]:
    """Returns the specs of the packed residuals of every level."""
    widths = {level: sum(channels for _, channels in group) for level, group in groupby(layout, lambda one: one[0])}
    return tuple(
        TensorSpec(f"residual_{level}", "float32", ("batch", width, *sides_at(level)))
        for level, width in widths.items()
    )


def sides_at(level: int) -> tuple[str, str]:
    """The axes of features after `level` downsamplings, each rounded up."""
    height, width = (f"{side}/{2**level}" if level else side for side in ("height", "width"))
    return height, width


def packed(residuals: Sequence[Tensor], layout: Layout) -> tuple[Tensor, ...]:
    """The residuals of each level, concatenated."""
    pairs = zip(layout, residuals, strict=True)
    return tuple(torch.cat([one for _, one in group], 1) for _, group in groupby(pairs, lambda pair: pair[0][0]))


def unpacked(levels: Sequence[Tensor], layout: Layout) -> Iterator[Tensor]:
    """Yields every residual of packed levels."""
    starts = [0] * len(levels)
    for level, channels in layout:
        yield levels[level][:, starts[level] : starts[level] + channels]
        starts[level] += channels
