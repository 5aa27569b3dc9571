"""The stage that goes on with the decoder alone: the encoder, and so every latent that the UNet knows, stays.

    python -m examples.emoji.decoder [--steps N]

It starts from the autoencoder. Latents get a little noise, as a sampler's are never exactly an encoder's; the loss is
the autoencoder's without its KL term.
"""

import torch

from examples.emoji import autoencoder, training
from examples.emoji.cutouts import draw

STAGE, STEPS, BATCH = 4, 2000, 8
RATE, TAIL = 1e-3, 0.6
NOISE = 0.05  # of the standard deviation of the batch's latents


def main() -> None:
    """Train, or go on."""
    given = training.arguments(__doc__, STEPS)
    vae = autoencoder.build()
    training.load_parts("autoencoder", {"vae": vae})
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    after = training.optimizers(vae.post_quant_conv, vae.decoder)
    stage = training.Training("decoder", given.steps, RATE, TAIL, {"vae": vae}, after)

    def step(number: int) -> dict[str, float]:
        rng, noise = training.generators(STAGE, number)
        pictures = draw(training.share(BATCH), rng)
        with torch.no_grad():
            latents = vae.encode(pictures).latent_dist.mean
            latents += NOISE * latents.std() * torch.randn(latents.shape, generator=noise)
        decoded = vae.decode(latents).sample
        loss = autoencoder.picture_loss(decoded, pictures)
        loss.backward()
        return {"loss": loss.item(), "psnr": autoencoder.psnr(decoded.detach(), pictures).mean().item()}

    stage.run(step)


if __name__ == "__main__":
    main()
