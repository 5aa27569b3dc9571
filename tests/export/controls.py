"""Small control networks beside the small checkpoints: diffusers' own classes, random weights everywhere."""

from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel
from PIL import Image
from torch import nn


def build_controlnet(unet: nn.Module, hint: tuple[int, ...] = (4, 8, 8, 16)) -> ControlNetModel:
    """Returns a ControlNet for a UNet. Its last convolutions are random, not the zeros that training starts from."""
    with torch.random.fork_rng():
        torch.manual_seed(1)  # not the UNet's: what both begin with would be the same
        network = ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=hint, load_weights_from_unet=False
        )
        for module in (*network.controlnet_down_blocks, network.controlnet_mid_block):
            nn.init.normal_(module.weight, std=0.2)
            nn.init.normal_(module.bias, std=0.2)
        conv = network.controlnet_cond_embedding.conv_out
        nn.init.normal_(conv.weight, std=0.5)
        nn.init.normal_(conv.bias, std=0.2)
    return network.half().float().eval().requires_grad_(False)


def saved_controlnet(unet: nn.Module, folder: Path) -> ControlNetModel:
    """Writes a ControlNet for a UNet and returns it."""
    network = build_controlnet(unet)
    network.save_pretrained(folder)
    return network


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Returns an image that shows nothing."""
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
