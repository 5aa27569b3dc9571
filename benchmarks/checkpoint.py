"""Writes a checkpoint of Stable Diffusion 1.5's shape with random weights, 4.3 GB.

    python -m benchmarks.checkpoint PATH

A diffusers folder, or where PATH ends with .safetensors one file in the CompVis layout.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from latentrt.export.vocabulary import clip_tokenizer
from tests.export.compvis import save_single_file

CONFIGS = Path(__file__).parents[1] / "export" / "configs" / "sd15"


def config(name: str) -> dict[str, object]:
    """The public config of one component."""
    loaded: dict[str, object] = json.loads((CONFIGS / f"{name}.json").read_text())
    return loaded


def save_folder(unet: UNet2DConditionModel, vae: AutoencoderKL, text_encoder: CLIPTextModel, folder: Path) -> None:
    """Writes a folder that any version of diffusers reads: the tokenizer as vocabulary and merges."""
    scheduler = DDIMScheduler.from_config(config("scheduler"))
    parts = {"unet": unet, "vae": vae, "text_encoder": text_encoder, "scheduler": scheduler}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    save_tokenizer(folder / "tokenizer")
    classes = {name: [type(part).__module__.split(".")[0], type(part).__name__] for name, part in parts.items()}
    index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.37.0", "requires_safety_checker": False}
    absent = {"safety_checker": [None, None], "feature_extractor": [None, None]}
    known = index | classes | absent | {"tokenizer": ["transformers", "CLIPTokenizer"]}
    (folder / "model_index.json").write_text(json.dumps(known, indent=2) + "\n")


def save_tokenizer(folder: Path) -> None:
    """Writes CLIP's tokenizer as version 4 of transformers had it."""
    folder.mkdir()
    model = json.loads(clip_tokenizer().backend.to_str())["model"]
    pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n")
    end = "<|endoftext|>"
    tokens = {"bos_token": "<|startoftext|>", "eos_token": end, "unk_token": end, "pad_token": end}
    known = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(known, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens, indent=2) + "\n")


def main() -> None:
    """Writes under another name first: a half-written checkpoint would be used by the next run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    given = parser.parse_args()
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(config("unet"))
    vae = AutoencoderKL.from_config(config("vae"))
    text_encoder = CLIPTextModel(CLIPTextConfig(**config("text_encoder")))
    temporary = given.path.with_name(f"{given.path.name}.tmp")
    if given.path.suffix == ".safetensors":
        save_single_file(unet, vae, text_encoder, temporary, torch.float32)
    else:
        save_folder(unet, vae, text_encoder, temporary)
    temporary.rename(given.path)


if __name__ == "__main__":
    main()
