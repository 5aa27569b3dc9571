"""diffusers on torch. Variants: float32; bfloat16 in channels_last, as its documentation advises for CPUs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from clock import GUIDANCE, PROMPT, SIDE, asked, report
from diffusers import DDIMScheduler, StableDiffusionPipeline

model, variant, steps = asked()
pipeline = StableDiffusionPipeline.from_pretrained(
    model, torch_dtype=getattr(torch, variant), safety_checker=None, requires_safety_checker=False
)
pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
pipeline.set_progress_bar_config(disable=True)
if variant == "bfloat16":
    pipeline.unet.to(memory_format=torch.channels_last)


def draw(count: int, step_ended: Callable[[], None]) -> None:
    """A picture."""

    def ended(_pipeline, _step, _timestep, given):
        step_ended()
        return given

    pipeline(
        PROMPT,
        num_inference_steps=count,
        guidance_scale=GUIDANCE,
        width=SIDE,
        height=SIDE,
        generator=torch.Generator().manual_seed(0),
        callback_on_step_end=ended,
    )


report(draw, steps)
