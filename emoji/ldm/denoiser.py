"""The training of a denoiser on latents and one condition: what both models share.

v-prediction on betas rescaled to zero terminal SNR, as in `emoji.diffusion`, instead of the paper's prediction of the
noise: it takes fewer steps to draw a picture.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from emoji import training
from emoji.diffusion import drawn_timesteps, loss, moving_average, schedule
from emoji.training import Batch

RATE, TAIL = 3e-3, 0.4

Drawn = Callable[[int], tuple[Tensor, Tensor]]


def train(name: str, stage: int, model: nn.Module, shown: Drawn, given: argparse.Namespace) -> None:
    """Train `model(noisy, timesteps, condition)`, or go on. shown: the latents and the condition of a step."""
    noise_schedule = schedule()
    model = model.to(training.device())
    average = AveragedModel(model, avg_fn=moving_average)
    parts = {"model": model, "average": average}
    run = training.Training(name, given.steps, RATE, TAIL, parts, training.optimizers(model), given.workers)

    def draw(number: int) -> Batch:
        clean, condition = shown(number)
        _, noises = training.generators(stage, number)
        timesteps = drawn_timesteps(len(clean), noises, noise_schedule.config.num_train_timesteps)
        return condition, clean, torch.randn(clean.shape, generator=noises), timesteps

    def step(number: int, batch: Batch) -> dict[str, float]:
        average.update_parameters(model)
        error = loss(model, noise_schedule, batch)
        error.backward()
        return {"loss": error.item()}

    run.run(draw, step)


def averaged(name: str, model: nn.Module) -> nn.Module:
    """Return the model with its trained weights: their average over training, not the last ones."""
    average = AveragedModel(model.to(training.device()))
    training.load_parts(name, {"average": average})
    return average.module.eval()
