"""Writes a checkpoint of Stable Diffusion 1.5's or SDXL's shape with random weights.

    python -m benchmarks.checkpoint PATH [--model sd15|sdxl]

Writes a diffusers folder or, for sd15 and a PATH that ends with .safetensors, one file in the CompVis layout. The
weights of sd15 are float32, 4.3 GB; those of sdxl float16, 6.9 GB.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from latentrt_export.checkpoint.tokenizer import clip_tokenizer
from tests.export.compvis import save_single_file

CONFIGS = Path(__file__).parents[1] / "export" / "latentrt_export" / "configs"
END = "<|endoftext|>"


@dataclass(frozen=True)
class Model:
    """A published model's shape. tokenizers: padding token of each. index: further entries of model_index.json."""

    pipeline: str
    dtype: torch.dtype
    parts: Mapping[str, Any]
    tokenizers: Mapping[str, str]
    index: Mapping[str, Any]


MODELS = {
    "sd15": Model(
        "StableDiffusionPipeline",
        torch.float32,
        {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel, "scheduler": DDIMScheduler},
        {"tokenizer": END},
        {"requires_safety_checker": False, "safety_checker": [None, None], "feature_extractor": [None, None]},
    ),
    "sdxl": Model(
        "StableDiffusionXLPipeline",
        torch.float16,
        {
            "unet": UNet2DConditionModel,
            "vae": AutoencoderKL,
            "text_encoder": CLIPTextModel,
            "text_encoder_2": CLIPTextModelWithProjection,
            "scheduler": EulerDiscreteScheduler,
        },
        {"tokenizer": END, "tokenizer_2": "!"},
        {"force_zeros_for_empty_prompt": True, "feature_extractor": [None, None], "image_encoder": [None, None]},
    ),
}


def config(name: str, model: str = "sd15") -> dict[str, object]:
    """The public config of one component."""
    loaded: dict[str, object] = json.loads((CONFIGS / model / f"{name}.json").read_text())
    return loaded


def made(model: str) -> dict[str, Any]:
    """A model's modules from its public configs, with torch's initial weights."""
    parts = {}
    for name, kind in MODELS[model].parts.items():
        known = config(name, model)
        parts[name] = kind(CLIPTextConfig(**known)) if name.startswith("text_encoder") else kind.from_config(known)
    return parts


def save_folder(model: Model, parts: Mapping[str, Any], folder: Path) -> None:
    """Writes a folder that any version of diffusers reads: the tokenizers as vocabulary and merges."""
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    for name, padding in model.tokenizers.items():
        save_tokenizer(folder / name, padding)
    classes = {name: [type(part).__module__.split(".")[0], type(part).__name__] for name, part in parts.items()}
    tokenizers = {name: ["transformers", "CLIPTokenizer"] for name in model.tokenizers}
    known = {"_class_name": model.pipeline, "_diffusers_version": "0.37.0", **model.index, **classes, **tokenizers}
    (folder / "model_index.json").write_text(json.dumps(known, indent=2) + "\n")


def save_tokenizer(folder: Path, padding: str) -> None:
    """Writes CLIP's tokenizer in the format of transformers 4."""
    folder.mkdir()
    model = json.loads(clip_tokenizer().backend.to_str())["model"]
    pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n")
    tokens = {"bos_token": "<|startoftext|>", "eos_token": END, "unk_token": END, "pad_token": padding}
    known = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(known, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens, indent=2) + "\n")


def main() -> None:
    """Writes the checkpoint under a temporary name, then renames it, so that the next run finds no half-written one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--model", choices=MODELS, default="sd15")
    given = parser.parse_args()
    alone = given.path.suffix == ".safetensors"
    if alone and given.model != "sd15":
        parser.error(f"got {given.path}, expected a folder: {given.model} is not written as one file")
    model = MODELS[given.model]
    torch.manual_seed(0)
    torch.set_default_dtype(model.dtype)
    parts = made(given.model)
    temporary = given.path.with_name(f"{given.path.name}.tmp")
    if alone:
        save_single_file(parts["unet"], parts["vae"], parts["text_encoder"], temporary, model.dtype)
    else:
        save_folder(model, parts, temporary)
    temporary.rename(given.path)


if __name__ == "__main__":
    main()
