"""The trained models as two checkpoints of diffusers' modules, weights in float16, for `latentrt export`.

    python -m emoji.ldm.checkpoint

The denoisers' weights are the averages over training. diffusers has no pipeline for classes: the family's name stands
in model_index.json.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import VQModel
from safetensors.torch import save_file
from torch import nn

from emoji import index, training
from emoji.diffusion import schedule
from emoji.fetch import FOLDER
from emoji.ldm import classes, denoiser, first_stage, super_resolution
from emoji.ldm.latents import load_large, load_small

CLASSES, UPSCALER = FOLDER / "classes", FOLDER / "super-resolution"


def write(folder: Path, name: str, modules: dict[str, Any]) -> None:
    """Write a checkpoint anew. name: its pipeline or family. modules: by folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for part, module in modules.items():
        if isinstance(module, nn.Module):
            module.half()
        module.save_pretrained(folder / part)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))


def stage_of(scale: float) -> VQModel:
    """Return the first stage with the scaling factor that a denoiser was trained for."""
    stage = first_stage.trained()
    stage.register_to_config(scaling_factor=scale)
    return stage


def write_classes() -> None:
    """Write the class-conditional model; its names are the pictures' labels."""
    stored, rows = load_small(), index.load()
    labels = [rows[number].label for number in classes.pictures()]
    model = denoiser.averaged(classes.NAME, classes.Drawer(len(labels)))
    write(CLASSES, "ldm-class", {"unet": model.unet, "vqvae": stage_of(stored.scale), "scheduler": schedule()})
    table = model.embedding.weight.detach().half()
    config = {"num_embeddings": len(table), "embedding_dim": classes.WIDTH}
    config |= {"names": labels, "unconditional": len(labels)}
    folder = CLASSES / "class_embedding"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, ensure_ascii=False))
    save_file({"weight": table}, folder / "model.safetensors")


def write_upscaler() -> None:
    """Write the super-resolution model."""
    model = denoiser.averaged(super_resolution.NAME, super_resolution.Upscaler())
    modules = {"unet": model.unet, "vqvae": stage_of(load_large().scale), "scheduler": schedule()}
    write(UPSCALER, "LDMSuperResolutionPipeline", modules)


@torch.no_grad()
def main() -> None:
    """Write those that are trained."""
    models = ((CLASSES, classes.NAME, write_classes), (UPSCALER, super_resolution.NAME, write_upscaler))
    for folder, name, one in models:
        if not training.state_path(name).is_file():
            print(f"{folder}: not trained, run python -m emoji.{name}")
            continue
        one()
        size = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6
        print(f"{folder}: {size:.1f} MB of weights")


if __name__ == "__main__":
    main()
