"""The story of a picture, from top to bottom."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from latentrt.pipeline.prepare import Prepared
from latentrt.pipeline.result import Step
from latentrt.pipeline.stages import decode, denoise, encode_prompts, initial_latents
from latentrt.pipeline.timed import Timed
from latentrt.tensors import Array

if TYPE_CHECKING:
    from PIL.Image import Image


def picture(run: Timed, prepared: Prepared) -> Generator[Step, None, tuple[Image, ...]]:
    """Every step as it is done, then the pictures: prompts encoded, latents started, denoised, decoded."""
    latents = yield from sample(run, prepared)
    return decode(run, prepared, latents)


def sample(run: Timed, prepared: Prepared) -> Generator[Step, None, Array]:
    """Every step as it is done, then the latents of the last."""
    with run.phase("prompt"):
        encoded = encode_prompts(run, prepared)
    run.release(prepared.plan)
    with run.phase("sampler"):
        start = initial_latents(run, prepared)
    run.release(prepared.plan)
    latents = start.latents
    for step in denoise(run, prepared, encoded, start):
        latents = step.latents
        yield step
    run.release(prepared.plan)
    return latents
