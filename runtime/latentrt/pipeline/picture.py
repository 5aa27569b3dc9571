"""All stages of a picture, in order."""

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
    """Yields every step when it is done, and returns the pictures: encode prompts, start latents, denoise, decode."""
    latents = yield from sample(run, prepared)
    return decode(run, prepared, latents)


def sample(run: Timed, prepared: Prepared) -> Generator[Step, None, Array]:
    """Yields every step when it is done, and returns the latents of the last."""
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
