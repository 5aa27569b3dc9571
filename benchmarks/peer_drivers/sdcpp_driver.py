"""stable-diffusion.cpp by its Python package. Variants: the types that it loads weights in.

Its default is half of the cores; it gets all of them, as the others do.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from clock import GUIDANCE, PROMPT, SIDE, asked, report
from stable_diffusion_cpp import StableDiffusion

model, variant, steps = asked()
pipeline = StableDiffusion(model_path=model, wtype=variant, n_threads=os.cpu_count(), diffusion_flash_attn=True)


def draw(count: int, step_ended: Callable[[], None]) -> None:
    """A picture."""

    def ended(step, _steps, _seconds):
        if step > 0:
            step_ended()

    pipeline.generate_image(
        prompt=PROMPT,
        width=SIDE,
        height=SIDE,
        sample_steps=count,
        cfg_scale=GUIDANCE,
        sample_method="euler",
        seed=0,
        progress_callback=ended,
    )


report(draw, steps)
