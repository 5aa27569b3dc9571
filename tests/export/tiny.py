"""Small models of Stable Diffusion 1's shape with random weights from a fixed seed, as modules or as a folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

TOKENIZER = Path(__file__).parents[2] / "runtime" / "latentrt" / "models" / "emoji" / "tokenizer" / "tokenizer.json"

UNET = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
}
VAE = {
    "sample_size": 64,
    "block_out_channels": (8, 16, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "latent_channels": 4,
}
TEXT_ENCODER = {
    "vocab_size": 2660,
    "max_position_embeddings": 32,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "projection_dim": 32,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}


def build_unet(**changes: object) -> UNet2DConditionModel:
    """Returns a UNet with two levels, cross-attention in the upper one, for a context of width 32, but for changes."""
    return seeded(lambda: UNet2DConditionModel(**{**UNET, **changes}))


def build_vae() -> AutoencoderKL:
    """Returns a VAE whose latents are 8 times smaller than the image."""
    return seeded(lambda: AutoencoderKL(**VAE))


def build_text_encoder() -> CLIPTextModel:
    """Returns a text encoder for the built-in tokenizer: 2660 tokens, 32 positions."""
    return seeded(lambda: CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER)))


def build_scheduler(prediction_type: str = "epsilon") -> DDIMScheduler:
    """Returns a scheduler with the noise schedule of Stable Diffusion 1."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def save_diffusers_folder(
    path: Path, *, prediction_type: str = "epsilon", dtype: torch.dtype = torch.float32, **changes: object
) -> None:
    """Writes the three models to `path` as a StableDiffusionPipeline folder, with the built-in tokenizer.

    changes: of the UNet's config.
    """
    modules = {"unet": build_unet(**changes), "vae": build_vae(), "text_encoder": build_text_encoder()}
    for name, module in modules.items():
        module.to(dtype).save_pretrained(path / name)
    build_scheduler(prediction_type).save_pretrained(path / "scheduler")
    save_tokenizer(path / "tokenizer")
    classes = {
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    absent = {name: [None, None] for name in ("feature_extractor", "image_encoder", "safety_checker")}
    index = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False, **absent, **classes}
    (path / "model_index.json").write_text(json.dumps(index, indent=2))


def save_tokenizer(path: Path) -> None:
    """Writes the built-in tokenizer as a folder that transformers reads as well."""
    path.mkdir(parents=True)
    shutil.copy(TOKENIZER, path / "tokenizer.json")
    end = "<|endoftext|>"
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TEXT_ENCODER["max_position_embeddings"],
        "bos_token": "<|startoftext|>",
        **dict.fromkeys(("eos_token", "pad_token", "unk_token"), end),
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config, indent=2))


def save_configs(path: Path) -> None:
    """Writes the four configs of the small models as load_checkpoint takes them for a single file of other widths."""
    path.mkdir(parents=True)
    contents = {
        "unet": build_unet().config,
        "vae": build_vae().config,
        "text_encoder": build_text_encoder().config.to_dict(),
        "scheduler": build_scheduler().config,
    }
    for name, config in contents.items():
        (path / f"{name}.json").write_text(json.dumps(dict(config)))


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """Returns what `build` makes, its random weights always the same, ready to be run."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().eval().requires_grad_(False)
