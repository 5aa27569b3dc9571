"""stable-diffusion.cpp by its Python package. Variants: types of the loaded weights. A folder is one of FLUX.2 klein.

The default is half of the cores; here it gets all of them, like the other packages.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from clock import PROMPT, SIDE, asked, report
from stable_diffusion_cpp import StableDiffusion

model, variant, guidance, steps = asked()
folder = Path(model)
files = {
    "diffusion_model_path": folder / "original.safetensors",
    "llm_path": folder / "text_encoder" / "model.safetensors",
    "vae_path": folder / "vae" / "diffusion_pytorch_model.safetensors",
}
named = {name: str(path) for name, path in files.items()} if folder.is_dir() else {"model_path": model}
pipeline = StableDiffusion(**named, wtype=variant, n_threads=os.cpu_count(), diffusion_flash_attn=True)


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
        cfg_scale=guidance,
        sample_method="euler",
        seed=0,
        progress_callback=ended,
    )


report(draw, steps)
