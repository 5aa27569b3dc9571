"""T2I-Adapters as modules, Mou et al. (2023): features added in a UNet's down blocks, computed once per image.

The reference is diffusers 0.42.1: T2IAdapter, and its UNet's use of the features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from diffusers import T2IAdapter, UNet2DConditionModel
from torch import Tensor, nn

from latentrt.tensors import TensorSpec
from latentrt_export.networks.component import Part, generator, part
from latentrt_export.networks.residuals import sides_at

# The level and the channels of each feature, in the order of the UNet's blocks.
Features = tuple[tuple[int, int], ...]


def places_of(unet: UNet2DConditionModel) -> Features:
    """The levels and channels of a UNet's features: at the end of each down block, and the last in the middle block.

    As in diffusers: before the downsampler in a block with cross-attention, after it in a block without; the sum is
    part of the block's last skip.
    """
    level, found = 0, []
    for block in unet.down_blocks:
        halves, attends = block.downsamplers is not None, getattr(block, "has_cross_attention", False)
        found.append((level + (halves and not attends), block.resnets[-1].out_channels))
        level += halves
    return (*found, (level, found[-1][1]))


def features_of(adapter: T2IAdapter, pixels: int) -> Features:
    """The levels and channels of an adapter's features. pixels: pixels per latent, along each side."""
    level, found = round(math.log2(adapter.downscale_factor / pixels)), []
    for block in adapter.adapter.body:
        level += block.downsample is not None
        *_, last = (module for module in block.modules() if isinstance(module, nn.Conv2d))
        found.append((level, last.out_channels))
    return tuple(found)


def feature_specs(features: Features) -> tuple[TensorSpec, ...]:
    """The features as tensors."""
    return tuple(
        TensorSpec(f"feature_{place}", "float32", ("batch", channels, *sides_at(level)))
        for place, (level, channels) in enumerate(features)
    )


class Unshuffled(nn.Module):
    """Pixel unshuffle and convolution as one strided convolution.

    squares: side of the unshuffled squares in pixels. The image is padded with zeros to whole squares; its sides are
    multiples of `pixels`.
    """

    def __init__(self, conv: nn.Conv2d, squares: int, pixels: int) -> None:
        super().__init__()
        kernel = conv.kernel_size[0]
        channels, side = conv.in_channels // squares**2, kernel * squares
        weight = conv.weight.reshape(-1, channels, squares, squares, kernel, kernel).permute(0, 1, 4, 2, 5, 3)
        self.conv = nn.Conv2d(channels, conv.out_channels, side, stride=squares, device="meta")
        self.conv.weight = nn.Parameter(weight.reshape(-1, channels, side, side), requires_grad=False)
        self.conv.bias = conv.bias
        near = kernel // 2 * squares
        far = near + squares - pixels
        self.border = near, far, near, far

    def forward(self, image: Tensor) -> Tensor:
        """One output per square, partial squares included."""
        found: Tensor = self.conv(F.pad(image, self.border))
        return found


class AdapterNetwork(nn.Module):
    """image (batch, channels, 8h, 8w) in [0, 1] -> the features. Takes over the modules of `adapter`."""

    def __init__(self, adapter: T2IAdapter, pixels: int) -> None:
        super().__init__()
        network, squares = adapter.adapter, adapter.downscale_factor
        if hasattr(network, "conv_in"):
            self.first = Unshuffled(network.conv_in, squares, pixels)
        else:  # "light": the first block begins with it
            self.first = Unshuffled(network.body[0].in_conv, squares, pixels)
            network.body[0].in_conv = nn.Identity()
        self.body = network.body

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Features to add to the UNet's, one per block."""
        hidden, features = self.first(image), []
        for block in self.body:
            hidden = block(hidden)
            features.append(hidden)
        return tuple(features)


def adapter_run(adapter: T2IAdapter, sample: Tensor, pixels: int) -> dict[str, Tensor]:
    """A reference image, and the undivided adapter's features of it, padded to whole squares."""
    batch, _, height, width = sample.shape
    image = torch.rand(batch, adapter.config.in_channels, pixels * height, pixels * width, generator=generator())
    right, below = (-side % adapter.downscale_factor for side in (pixels * width, pixels * height))
    with torch.no_grad():
        features = adapter(F.pad(image, (0, right, 0, below)))
    return {"image": image, **{f"feature_{place}": one for place, one in enumerate(features)}}


def adapter_part(name: str, adapter: T2IAdapter, pixels: int, runs: Sequence[Mapping[str, Tensor]]) -> Part:
    """The component of an adapter."""
    sides = f"{pixels}*height", f"{pixels}*width"
    image_spec = TensorSpec("image", "float32", ("batch", adapter.config.in_channels, *sides))
    outputs = feature_specs(features_of(adapter, pixels))
    return part(
        f"adapter_{name}",
        lambda: AdapterNetwork(adapter, pixels),
        (image_spec,),
        outputs,
        runs,
        role="t2i_adapter",
        controls=(name,),
    )
