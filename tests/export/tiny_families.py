"""A small checkpoint of every family but Stable Diffusion 1: random weights from a fixed seed, diffusers' own classes.

Each is a value: its modules' configs, its scheduler, what pads its rows, and how its single file is written.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTokenizer

from tests.export import compvis, tiny

Modules = Mapping[str, nn.Module]


@dataclass(frozen=True)
class Tiny:
    """A family's small checkpoint. configs: by component. pads: the pad token of each tokenizer. file: its tensors."""

    pipeline: type[DiffusionPipeline]
    configs: Mapping[str, Mapping[str, Any]]
    scheduler: Any
    pads: Mapping[str, str]
    file: Callable[[Modules], dict[str, Tensor]]
    options: Mapping[str, Any]


def module_of(name: str, config: Mapping[str, Any]) -> nn.Module:
    """Returns a component's module, its weights from a seed."""
    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    if name in kinds:
        return tiny.seeded(lambda: kinds[name](**config))
    return tiny.seeded(lambda: getattr(transformers, config["architectures"][0])(CLIPTextConfig(**config)))


def modules_of(family: Tiny) -> dict[str, nn.Module]:
    """Returns every module of the checkpoint."""
    return {name: module_of(name, config) for name, config in family.configs.items()}


def reference(family: Tiny, folder: Path) -> DiffusionPipeline:
    """Returns diffusers' pipeline around the modules; its tokenizers are written into `folder`."""
    tokenizers = {
        name: CLIPTokenizer.from_pretrained(save_tokenizer(folder / name, pad)) for name, pad in family.pads.items()
    }
    pipeline = family.pipeline(**modules_of(family), **tokenizers, scheduler=family.scheduler, **family.options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_tokenizer(path: Path, pad: str) -> Path:
    """Writes the built-in tokenizer, padding with `pad`; returns its folder."""
    if not path.exists():
        tiny.save_tokenizer(path)
        file = path / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": pad}))
    return path


def save_file(family: Tiny, path: Path) -> None:
    """Writes the checkpoint as one file in the original layout, and beside it, in "configs", what that leaves out."""
    modules = modules_of(family)
    compvis.save_tensors(family.file(modules), path, torch.float32)
    (path.parent / "configs").mkdir()
    for name, module in modules.items():
        config = module.config if isinstance(module.config, dict) else module.config.to_dict()
        (path.parent / "configs" / f"{name}.json").write_text(json.dumps(dict(config)))
    (path.parent / "configs" / "scheduler.json").write_text(json.dumps(dict(family.scheduler.config)))


def sd2_file(modules: Modules) -> dict[str, Tensor]:
    """Stable Diffusion 2's layout: open_clip's text transformer with the layer that is skipped."""
    text = compvis.open_clip_tensors(modules["text_encoder"], "cond_stage_model.model.", skipped=1)
    return compvis.unet_tensors(modules["unet"]) | compvis.vae_tensors(modules["vae"]) | text


SD2_UNET = {**tiny.UNET, "use_linear_projection": True, "upcast_attention": True, "attention_head_dim": [4, 8]}
SD2_TEXT = {
    **tiny.TEXT_ENCODER,
    "architectures": ["CLIPTextModel"],
    "hidden_act": "gelu",
    "num_hidden_layers": 3,
    "pad_token_id": 2,
}
SD2 = {"unet": SD2_UNET, "vae": tiny.VAE, "text_encoder": SD2_TEXT}
NO_CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def ddim(prediction: str) -> DDIMScheduler:
    """Returns the scheduler of Stable Diffusion 2."""
    return tiny.build_scheduler(prediction)


TINY = {
    "sd2": Tiny(StableDiffusionPipeline, SD2, ddim("v_prediction"), {"tokenizer": "!"}, sd2_file, NO_CHECKER),
    "sd2-base": Tiny(StableDiffusionPipeline, SD2, ddim("epsilon"), {"tokenizer": "!"}, sd2_file, NO_CHECKER),
}
