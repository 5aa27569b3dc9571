"""The KL-f8 autoencoder: 128x128 pictures to 16x16x4 latents and back, and the stage that trains it.

    python -m emoji.autoencoder [--steps N] [--batch N]

Loss: absolute and squared error, the error of gradients, which is what keeps outlines sharp, and a small KL term.
"""

from functools import partial

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from emoji import training
from emoji.compose import SIDE
from emoji.cutouts import draw

STAGE, STEPS, BATCH = 1, 3080, 64
RATE, TAIL = 2e-3, 0.4
SQUARED, EDGES, KL = 2.0, 0.5, 1e-3

CHANNELS = (16, 32, 64, 160)


def build() -> AutoencoderKL:
    """Return the autoencoder with random weights."""
    levels = len(CHANNELS)
    return AutoencoderKL(
        block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=128,
    )


def main() -> None:
    """Train, or go on."""
    given = training.arguments(__doc__, STEPS, BATCH)
    vae = build().to(training.device())
    after = training.optimizers(vae)
    stage = training.Training("autoencoder", given.steps, RATE, TAIL, {"vae": vae}, after, given.workers)

    def step(number: int, batch: training.Batch) -> dict[str, float]:
        pictures, noise = batch
        with training.arithmetic():
            posterior = vae.encode(pictures).latent_dist
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).float().mean()
        loss = picture_loss(decoded.float(), pictures) + KL * kl
        loss.backward()
        return {"loss": loss.item(), "kl": kl.item(), "psnr": psnr(decoded.detach().float(), pictures).mean().item()}

    stage.run(partial(drawn, given.batch), step)


def drawn(batch: int, number: int) -> training.Batch:
    """Return one step's pictures, (batch, 3, 128, 128) in [-1, 1], and noise of their latents' shape."""
    rng, noises = training.generators(STAGE, number)
    pictures = draw(training.share(batch), rng)
    return pictures, torch.randn((len(pictures), 4, SIDE // 8, SIDE // 8), generator=noises)


def picture_loss(decoded: Tensor, pictures: Tensor) -> Tensor:
    """Return how wrong decoded pictures are: absolute, squared, and in their gradients."""
    error = decoded - pictures
    gradients = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return error.abs().mean() + SQUARED * (error**2).mean() + EDGES * gradients


def psnr(decoded: Tensor, pictures: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each picture in dB; values are in [-1, 1] and clipped to it."""
    error = ((decoded.clamp(-1, 1) - pictures) / 2).square().mean(dim=(1, 2, 3))
    return -10 * torch.log10(error)


if __name__ == "__main__":
    main()
