"""Shared by the drivers of packages with diffusers' interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from clock import PROMPT, SIDE, report
from diffusers import DDIMScheduler


def report_pipeline(pipeline: Any, guidance: float, steps: list[int]) -> None:
    """Draws with the pipeline and DDIM, and prints the report."""
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)

    def draw(count: int, step_ended: Callable[[], None]) -> None:
        def ended(_pipeline, _step, _timestep, given):
            step_ended()
            return given

        pipeline(
            PROMPT,
            num_inference_steps=count,
            guidance_scale=guidance,
            width=SIDE,
            height=SIDE,
            generator=torch.Generator().manual_seed(0),
            callback_on_step_end=ended,
        )

    report(draw, steps)
