"""The VQ-f4 autoencoder of both models, and the stage that trains it on crops of 64x64 pixels.

    torchrun --nproc-per-node 2 -m emoji.ldm.first_stage [--steps N] [--batch N]

Van den Oord et al. (2017), with codes of 3 channels as in Rombach et al. (2022). The first steps have no codebook. Then
k-means of latents fill it, so that none of its vectors is left unused, and it learns with the rest.
"""

from functools import partial

import numpy as np
import torch
from diffusers import VQModel
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor

from emoji import training
from emoji.autoencoder import picture_loss, psnr
from emoji.ldm.pictures import SMALL, crops

NAME = "ldm.first_stage"
STAGE, STEPS, BATCH = 11, 1500, 48
RATE, TAIL = 2e-3, 0.4
WITHOUT_CODEBOOK = 500
CODES, CHANNELS = 1024, 3
SHOWN = 400  # crops whose latents fill the codebook


def build() -> VQModel:
    """Return the autoencoder with random weights: no attention, so that its tiles fit any size."""
    return VQModel(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=CHANNELS,
        num_vq_embeddings=CODES,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=SMALL,
    )


def main() -> None:
    """Train, or go on."""
    given = training.arguments(__doc__, STEPS, BATCH)
    model = build().to(training.device())
    after = training.optimizers(model)
    stage = training.Training(NAME, given.steps, RATE, TAIL, {"model": model}, after, given.workers)

    def step(number: int, batch: training.Batch) -> dict[str, float]:
        (pictures,) = batch
        if number == WITHOUT_CODEBOOK:
            fill_codebook(model)
        with training.arithmetic():
            latents = model.encode(pictures).latents
            decoded = model.decode(latents, force_not_quantize=number < WITHOUT_CODEBOOK)
        error = picture_loss(decoded.sample.float(), pictures)
        (error + decoded.commit_loss.mean()).backward()
        quality = psnr(decoded.sample.detach().float(), pictures).mean().item()
        return {"loss": error.item(), "codebook": decoded.commit_loss.mean().item(), "psnr": quality}

    stage.run(partial(drawn, given.batch), step)


def drawn(batch: int, number: int) -> training.Batch:
    """Return one step's crops, (batch, 3, 64, 64) in [-1, 1]."""
    rng, _ = training.generators(STAGE, number)
    return (crops(training.share(batch), SMALL, rng),)


@torch.no_grad()
def fill_codebook(model: VQModel) -> None:
    """Replace the codebook by the means of clusters of latents; every process finds the same."""
    pictures = crops(SHOWN, SMALL, np.random.default_rng((training.SEED, STAGE)))
    latents = torch.cat([model.encode(some.to(training.device())).latents.cpu() for some in pictures.split(50)])
    means = clustered(latents.movedim(1, -1).reshape(-1, CHANNELS).numpy())
    model.quantize.embedding.weight.copy_(torch.from_numpy(means))


def clustered(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the means of as many clusters as the codebook has vectors: (codes, channels)."""
    means, _ = kmeans2(vectors.astype(np.float64), CODES, iter=20, minit="points", rng=training.SEED)
    return means.astype(np.float32)


def trained() -> VQModel:
    """Return the trained autoencoder, for inference."""
    model = build().to(training.device()).eval()
    training.load_parts(NAME, {"model": model})
    return model.requires_grad_(False)


def encoded(model: VQModel, pictures: Tensor) -> Tensor:
    """Return the latents of pictures, on the CPU: (count, 3, height / 4, width / 4), not scaled."""
    return model.encode(pictures.to(training.device())).latents.cpu()


if __name__ == "__main__":
    main()
