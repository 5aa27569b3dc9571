"""The UNet, and the stage that trains it on latents and captions, with the text encoder as it is.

    torchrun --nproc-per-node 2 -m emoji.diffusion [--steps N] [--batch N]

v-prediction (Salimans and Ho, arXiv:2202.00512) on betas rescaled to zero terminal SNR (Lin et al., arXiv:2305.08891).
Timesteps are stratified over the batch, and noisier ones drawn more often: what a caption means matters there.
"""

from functools import partial

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from emoji import text, training
from emoji.examples import Examples
from emoji.probe import nearest
from emoji.text import WIDTH

STAGE, STEPS, BATCH = 3, 1196, 1024
RATE, TAIL, AVERAGE = 4e-3, 0.4, 0.998
NOISIER = 0.7  # uniform places to this power
PROBE_STEPS = 200

HEADS = 4
CHANNELS = (64, 128, 224)


class Model(nn.Module):
    """Text encoder and UNet as one module, so that they are saved together. The text encoder learns nothing more."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.text_encoder = text.build(vocabulary).requires_grad_(False)
        self.unet = build_unet()

    def forward(self, noisy: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        """Return v: (batch, 4, 16, 16), for noisy latents of that shape and `ids` (batch, 32)."""
        with torch.no_grad():
            hidden = self.text_encoder(ids).last_hidden_state
        return self.unet(noisy, timesteps, hidden).sample


def build_unet() -> UNet2DConditionModel:
    """Return the UNet with random weights: attention at 8x8 and 4x4, where it is cheap and where shapes are decided."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=HEADS,
        norm_num_groups=16,
    )


def schedule() -> DDIMScheduler:
    """Return the noise schedule, and the sampler that the checkpoint names."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    )


def drawn(shown: Examples, batch: int, number: int) -> training.Batch:
    """Return one step's ids, latents, noise and timesteps."""
    rng, noises = training.generators(STAGE, number)
    ids, clean, _ = shown.draw(training.share(batch), rng)
    timesteps = drawn_timesteps(len(clean), noises, schedule().config.num_train_timesteps)
    return ids, clean, torch.randn(clean.shape, generator=noises), timesteps


def loss(model: nn.Module, noise_schedule: DDIMScheduler, batch: training.Batch) -> Tensor:
    """Return the mean squared error of v over one step: what conditions each example, latents, noise, timesteps."""
    conditions, clean, noise, timesteps = batch
    noisy = noise_schedule.add_noise(clean, noise, timesteps)
    wanted = noise_schedule.get_velocity(clean, noise, timesteps)
    with training.arithmetic():
        predicted = model(noisy, timesteps, conditions)
    return (predicted.float() - wanted).square().mean()


def drawn_timesteps(count: int, generator: torch.Generator, steps: int) -> Tensor:
    """Return one timestep an example, in random order, one from each of `count` equal parts of what is to be drawn."""
    places = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    return (places**NOISIER * steps).long().clamp(max=steps - 1)


def moving_average(average: Tensor, now: Tensor, count: Tensor) -> Tensor:
    """Return the next average of weights after `count` of them; the first ones are forgotten fast."""
    return average.lerp(now, 1 - min(AVERAGE, (1 + int(count)) / (10 + int(count))))


def main() -> None:
    """Train, or go on."""
    given = training.arguments(__doc__, STEPS, BATCH)
    shown, noise_schedule = Examples(), schedule()
    model = Model(shown.vocabulary).to(training.device())
    reader = text.Reader(shown).to(training.device())
    training.load_parts("text", {"reader": reader})
    model.text_encoder.load_state_dict(reader.text_encoder.state_dict())
    average = AveragedModel(model, avg_fn=moving_average)
    parts = {"model": model, "average": average}
    after = training.optimizers(model.unet)
    stage = training.Training("diffusion", given.steps, RATE, TAIL, parts, after, given.workers)

    def step(number: int, batch: training.Batch) -> dict[str, float]:
        average.update_parameters(model)
        error = loss(model, noise_schedule, batch)
        error.backward()
        said = {"loss": error.item()}
        if number % PROBE_STEPS == 0 and training.rank() == 0:
            said["nearest"] = nearest(average.module, shown, noise_schedule)
        return said

    stage.run(partial(drawn, shown, given.batch), step)


if __name__ == "__main__":
    main()
