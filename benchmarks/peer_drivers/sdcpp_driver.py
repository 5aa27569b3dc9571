"""stable-diffusion.cpp by its Python package. Variants: types of the loaded weights.

The default is half of the cores; here it gets all of them, like the other packages.
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
