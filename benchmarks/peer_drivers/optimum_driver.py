"""ONNX Runtime as optimum-onnx drives it: its own export, its defaults."""

from __future__ import annotations

from collections.abc import Callable

import torch
from clock import GUIDANCE, PROMPT, SIDE, asked, report
from diffusers import DDIMScheduler
from optimum.onnxruntime import ORTStableDiffusionPipeline

model, _, steps = asked()
pipeline = ORTStableDiffusionPipeline.from_pretrained(model, provider="CPUExecutionProvider")
pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
pipeline.set_progress_bar_config(disable=True)


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
