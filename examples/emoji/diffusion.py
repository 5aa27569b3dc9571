"""The text encoder and the UNet, and the stage that trains both on latents and captions.

    python -m examples.emoji.diffusion [--steps N]

v-prediction (Salimans and Ho, arXiv:2202.00512) on betas rescaled to zero terminal SNR (Lin et al., arXiv:2305.08891).
Each caption meets two noises a step, which halves what the text encoder costs; timesteps are stratified over the
batch. Some captions are empty, for guidance.
"""

import json

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from transformers import CLIPTextConfig, CLIPTextModel

from examples.emoji import index, latents, training
from examples.emoji.captions import caption
from examples.emoji.probe import nearest
from examples.emoji.tokenizer import LENGTH, TOKENIZER
from latentrt.tokenizer import Tokenizer

Half = NDArray[np.float16]

STAGE, STEPS, CAPTIONS, NOISES = 3, 6000, 64, 2
RATE, TAIL, AVERAGE = 4e-3, 0.4, 0.998
EMPTY, PAIRED = 0.1, 0.08
PROBE_STEPS = 100

WIDTH, LAYERS, HEADS = 256, 3, 4
CHANNELS = (64, 128, 224)


class Model(nn.Module):
    """Text encoder and UNet as one module, so that they are averaged and saved together."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder(vocabulary)
        self.unet = build_unet()

    def forward(self, noisy: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        """Return v: (noises * captions, 4, 16, 16), for `ids` (captions, 32); rows of latents repeat the captions."""
        hidden = self.text_encoder(ids).last_hidden_state
        hidden = hidden.repeat(len(noisy) // len(ids), 1, 1)
        return self.unet(noisy, timesteps, hidden).sample


def build_text_encoder(vocabulary: int) -> CLIPTextModel:
    """Return the text encoder with random weights."""
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return CLIPTextModel(config)


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


def vocabulary() -> int:
    """Return the number of tokens."""
    return len(json.loads((TOKENIZER / "vocab.json").read_text(encoding="utf-8")))


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


class Examples:
    """What one step trains on: captions and the latents that belong to them."""

    def __init__(self) -> None:
        self.rows = index.load()
        self.stored = latents.load()
        self.tokenizer = Tokenizer.load(TOKENIZER / "tokenizer.json", length=LENGTH, bos=0, eos=1, pad=1)

    def draw(self, count: int, rng: Generator) -> tuple[Tensor, Tensor]:
        """Return ids (count, 32) and latents (count, 4, 16, 16)."""
        texts, drawn = [], []
        for _ in range(count):
            text, latent = self.pair(rng) if rng.random() < PAIRED else self.single(rng)
            texts.append("" if rng.random() < EMPTY else text)
            drawn.append(latent)
        return self.ids(texts), torch.from_numpy(np.stack(drawn)).float()

    def single(self, rng: Generator) -> tuple[str, Half]:
        """Return one picture's caption and latents."""
        number = int(rng.integers(len(self.rows)))
        text, colour = caption(self.rows[number], rng)
        return text, self.stored.single[number, latents.NAMES.index(colour)]

    def pair(self, rng: Generator) -> tuple[str, Half]:
        """Return two pictures' caption and latents."""
        number = int(rng.integers(len(self.stored.pairs)))
        return str(self.stored.texts[number]), self.stored.pairs[number]

    def ids(self, texts: list[str]) -> Tensor:
        """Return the tokens of texts: (texts, 32)."""
        return torch.from_numpy(np.asarray(self.tokenizer(texts), dtype=np.int64))


def loss(model: nn.Module, shown: Examples, noise_schedule: DDIMScheduler, stage: int, number: int) -> Tensor:
    """Return the mean squared error of v over one step's captions, each with `NOISES` noises."""
    rng, noises = training.generators(stage, number)
    ids, clean = shown.draw(training.share(CAPTIONS), rng)
    clean = clean.repeat(NOISES, 1, 1, 1)
    count = len(clean)
    places = (torch.randperm(count, generator=noises) + torch.rand(count, generator=noises)) / count
    timesteps = (places * noise_schedule.config.num_train_timesteps).long()
    noise = torch.randn(clean.shape, generator=noises)
    noisy = noise_schedule.add_noise(clean, noise, timesteps)
    wanted = noise_schedule.get_velocity(clean, noise, timesteps)
    return (model(noisy, timesteps, ids) - wanted).square().mean()


def moving_average(average: Tensor, now: Tensor, count: Tensor) -> Tensor:
    """Return the next average of weights after `count` of them; the first ones are forgotten fast."""
    return average.lerp(now, 1 - min(AVERAGE, (1 + int(count)) / (10 + int(count))))


def main() -> None:
    """Train, or go on."""
    given = training.arguments(__doc__, STEPS)
    shown, noise_schedule = Examples(), schedule()
    model = Model(vocabulary())
    average = AveragedModel(model, avg_fn=moving_average)
    parts = {"model": model, "average": average}
    stage = training.Training("diffusion", given.steps, RATE, TAIL, parts, training.optimizers(model))

    def step(number: int) -> dict[str, float]:
        average.update_parameters(model)
        error = loss(model, shown, noise_schedule, STAGE, number)
        error.backward()
        said = {"loss": error.item()}
        if number % PROBE_STEPS == 0 and training.rank() == 0:
            said["nearest"] = nearest(average.module, shown, noise_schedule)
        return said

    stage.run(step)


if __name__ == "__main__":
    main()
