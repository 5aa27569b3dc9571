"""The trained parts as one checkpoint in diffusers' layout, weights in float16, for `latentrt export`.

    python -m emoji.checkpoint

The UNet's weights are the averages over training, not the last ones.
"""

import shutil

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch.optim.swa_utils import AveragedModel
from transformers import CLIPTokenizer

from emoji import autoencoder, diffusion, latents, training
from emoji.examples import Examples
from emoji.fetch import FOLDER
from emoji.tokenizer import TOKENIZER

CHECKPOINT = FOLDER / "checkpoint"


def trained_vae() -> AutoencoderKL:
    """Return the autoencoder with the scaling factor that the UNet was trained for."""
    vae = autoencoder.build().to(training.device())
    training.load_parts("autoencoder", {"vae": vae})
    vae.register_to_config(scaling_factor=latents.load().scale)
    return vae


def main() -> None:
    """Write the checkpoint."""
    average = AveragedModel(diffusion.Model(Examples().vocabulary).to(training.device()))
    steps = training.load_parts("diffusion", {"average": average})
    pipeline = StableDiffusionPipeline(
        vae=trained_vae(),
        text_encoder=average.module.text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER),
        unet=average.module.unet,
        scheduler=diffusion.schedule(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    shutil.rmtree(CHECKPOINT, ignore_errors=True)
    pipeline.to("cpu", torch.float16).save_pretrained(CHECKPOINT)
    size = sum(path.stat().st_size for path in CHECKPOINT.rglob("*.safetensors")) / 1e6
    print(f"{CHECKPOINT}: {steps} steps of diffusion, {size:.1f} MB of weights")


if __name__ == "__main__":
    main()
