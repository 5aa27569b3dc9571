"""Super-resolution by 4: the UNet sees the small picture beside the latents of the large one (Rombach et al., 4.5).

torchrun --nproc-per-node 2 -m emoji.ldm.super_resolution [--steps N] [--batch N]
"""

from functools import partial

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from emoji import training
from emoji.ldm import denoiser
from emoji.ldm.latents import LargeLatents, load_large

NAME = "ldm.super_resolution"
STAGE, STEPS, BATCH = 13, 6000, 16
CROP = 32  # latents per side, which are pixels of the small picture


class Upscaler(nn.Module):
    """The UNet, called with the condition apart."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet2DModel(
            sample_size=CROP,
            in_channels=6,
            out_channels=3,
            block_out_channels=(48, 64, 96),
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            attention_head_dim=16,
            norm_num_groups=8,
        )

    def forward(self, noisy: Tensor, timesteps: Tensor, low: Tensor) -> Tensor:
        """Return v: (batch, 3, height, width), for noisy latents and small pictures of that shape."""
        return self.unet(torch.cat([noisy, low], dim=1), timesteps).sample


def drawn(stored: LargeLatents, batch: int, number: int) -> tuple[Tensor, Tensor]:
    """Return one step's latents, (batch, 3, 32, 32), and small pictures of that shape in [-1, 1]."""
    rng, _ = training.generators(STAGE, number)
    count = training.share(batch)
    pictures = rng.integers(len(stored.latents), size=count)
    tops, lefts = rng.integers(stored.latents.shape[-1] - CROP + 1, size=(2, count))
    places = [
        (picture, slice(None), slice(top, top + CROP), slice(left, left + CROP))
        for picture, top, left in zip(pictures, tops, lefts, strict=True)
    ]
    latents = torch.stack([torch.from_numpy(stored.latents[place]).float() for place in places])
    low = torch.stack([torch.from_numpy(stored.low[place]).float() for place in places])
    return latents, low / 127.5 - 1


def main() -> None:
    """Train, or go on."""
    given = training.arguments(__doc__, STEPS, BATCH)
    denoiser.train(NAME, STAGE, Upscaler(), partial(drawn, load_large(), given.batch), given)


if __name__ == "__main__":
    main()
