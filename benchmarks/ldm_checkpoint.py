"""Writes an original-layout checkpoint of one of the latent diffusion paper's models, full size, random weights.

    python -m benchmarks.ldm_checkpoint ldm-class model.safetensors

A program of its own: a process that is started by one that holds a model counts the memory of that as its own peak.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.checkpoint import config
from tests.export import compvis

Condition = Callable[[str], dict[str, Tensor]]


def no_condition(model: str) -> dict[str, Tensor]:
    """The tensors of a model without a condition of its own."""
    return {}


def classes(model: str) -> dict[str, Tensor]:
    """The table of classes."""
    known = config("class_embedding", model)
    return {"cond_stage_model.embedding.weight": torch.randn(known["num_embeddings"], known["embedding_dim"])}


def bert(model: str, name: str = "text_encoder") -> dict[str, Tensor]:
    """The encoder of text."""
    return compvis.bert_tensors(LDMBertModel(LDMBertConfig(**config(name, model))))


def boxes(model: str) -> dict[str, Tensor]:
    """The encoder of layouts."""
    return bert(model, "layout_encoder")


def labels(model: str) -> dict[str, Tensor]:
    """The mapper of label maps."""
    known = config("segmentation", model)
    return {"cond_stage_model.channel_mapper.weight": torch.randn(known["channels"], known["labels"], 1, 1)}


CONDITIONS = {
    "ldm-class": classes,
    "ldm-class-f8": classes,
    "ldm-text-large": bert,
    "ldm-text-256": bert,
    "ldm-semantic": labels,
    "ldm-layout": boxes,
}


def save_checkpoint(model: str, path: Path) -> None:
    """Writes an original-layout file of a model with torch's initial weights, and a codebook as spread as latents."""
    torch.manual_seed(0)
    unet, stage = (module_of(config(name, model)) for name in ("unet", "vae"))
    if hasattr(stage, "quantize"):
        nn.init.normal_(stage.quantize.embedding.weight)
    plain = isinstance(unet, diffusers.UNet2DModel)
    tensors = (compvis.plain_unet_tensors if plain else compvis.unet_tensors)(unet) | compvis.vae_tensors(stage)
    tensors |= CONDITIONS.get(model, no_condition)(model)
    save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, path)


def module_of(known: dict[str, Any]) -> nn.Module:
    """The module of a config, with initial weights."""
    module: nn.Module = getattr(diffusers, known["_class_name"]).from_config(known)
    return module


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("path", type=Path)
    given = parser.parse_args()
    save_checkpoint(given.model, given.path)


if __name__ == "__main__":
    main()
