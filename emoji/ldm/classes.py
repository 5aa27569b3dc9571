"""Classes: a UNet whose cross-attention reads one token, the class's (Rombach et al., section 4.3.1 and cin256-v2).

    torchrun --nproc-per-node 2 -m emoji.ldm.classes [--steps N] [--batch N]

Every picture of one group is a class, drawn at 64x64; the background's colour is left to the noise. All groups together
take five times as long. One class more stands for none: a tenth of the examples has it, so that guidance can lead away
from it.
"""

from functools import cache, partial

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from emoji import index, training
from emoji.ldm import denoiser
from emoji.ldm.latents import SmallLatents, load_small
from emoji.ldm.pictures import drawn_colour

NAME = "ldm.classes"
STAGE, STEPS, BATCH = 14, 3000, 64
GROUP = "animals and nature"
NONE = 0.1  # share of examples without a class
WIDTH = 64


@cache
def pictures() -> tuple[int, ...]:
    """Return the number of each class's picture, in the index's order."""
    return tuple(number for number, row in enumerate(index.load()) if row.group == GROUP)


class Drawer(nn.Module):
    """The table of classes and the UNet. classes: how many, without the class for none, which is the last."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes + 1, WIDTH)
        self.unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=3,
            out_channels=3,
            block_out_channels=(48, 80, 112),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=16,
        )

    def forward(self, noisy: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """Return v: (batch, 3, 16, 16), for noisy latents of that shape and `labels` (batch,)."""
        return self.unet(noisy, timesteps, self.embedding(labels)[:, None]).sample


def drawn(stored: SmallLatents, batch: int, number: int) -> tuple[Tensor, Tensor]:
    """Return one step's latents, (batch, 3, 16, 16), and labels, (batch,)."""
    rng, _ = training.generators(STAGE, number)
    chosen, count = np.array(pictures()), training.share(batch)
    labels = rng.integers(len(chosen), size=count)
    colours = [drawn_colour(rng) for _ in range(count)]
    latents = torch.from_numpy(stored.latents[chosen[labels], colours]).float()
    return latents, torch.from_numpy(np.where(rng.random(count) < NONE, len(chosen), labels))


def main() -> None:
    """Train, or go on."""
    given = training.arguments(__doc__, STEPS, BATCH)
    denoiser.train(NAME, STAGE, Drawer(len(pictures())), partial(drawn, load_small(), given.batch), given)


if __name__ == "__main__":
    main()
