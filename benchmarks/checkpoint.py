"""Writes a checkpoint of Stable Diffusion 1.5's shape with random weights: one file in the CompVis layout, 4.3 GB.

python -m benchmarks.checkpoint FILE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from tests.export.compvis import save_single_file

CONFIGS = Path(__file__).parents[1] / "export" / "configs" / "sd15"


def config(name: str) -> dict[str, object]:
    """The public config of one component."""
    loaded: dict[str, object] = json.loads((CONFIGS / f"{name}.json").read_text())
    return loaded


def main(path: Path) -> None:
    """Writes the file under another name first: a half-written checkpoint would be used by the next run."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(config("unet"))
    vae = AutoencoderKL.from_config(config("vae"))
    text_encoder = CLIPTextModel(CLIPTextConfig(**config("text_encoder")))
    temporary = path.with_suffix(".tmp")
    save_single_file(unet, vae, text_encoder, temporary, torch.float32)
    temporary.rename(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
