"""A small checkpoint of every family: random weights from a fixed seed, diffusers' own classes.

Each is a value: its modules' configs, its scheduler, what pads its rows, and how its single file is written.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTokenizer

from tests.export import compvis, tiny

Modules = Mapping[str, nn.Module]


@dataclass(frozen=True)
class Tiny:
    """A family's small checkpoint. configs: by component. pads: the pad token of each tokenizer. file: its tensors in
    the original layout, None where there is none."""

    pipeline: type[DiffusionPipeline]
    configs: Mapping[str, Mapping[str, Any]]
    scheduler: Callable[[], Any]
    pads: Mapping[str, str]
    file: Callable[[Modules], dict[str, Tensor]] | None
    options: Mapping[str, Any]


def module_of(name: str, config: Mapping[str, Any]) -> nn.Module:
    """Returns a component's module in float32, its weights from a seed and such that fp16 holds them."""
    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    if name in kinds:
        return tiny.seeded(lambda: kinds[name](**config)).half().float()
    build = getattr(transformers, config["architectures"][0])
    return tiny.seeded(lambda: build(CLIPTextConfig(**config))).half().float()


def modules_of(family: Tiny) -> dict[str, nn.Module]:
    """Returns every module of the checkpoint."""
    return {name: module_of(name, config) for name, config in family.configs.items()}


def reference(family: Tiny, folder: Path) -> DiffusionPipeline:
    """Returns diffusers' pipeline around the modules; its tokenizers are written into `folder`."""
    tokenizers = {
        name: CLIPTokenizer.from_pretrained(save_tokenizer(folder / name, pad)) for name, pad in family.pads.items()
    }
    pipeline = family.pipeline(**modules_of(family), **tokenizers, scheduler=family.scheduler(), **family.options)
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
    (path.parent / "configs" / "scheduler.json").write_text(json.dumps(dict(family.scheduler().config)))


def sd1_file(modules: Modules) -> dict[str, Tensor]:
    """Stable Diffusion 1's layout: CLIP as transformers has it."""
    prefix = "cond_stage_model.transformer.text_model."
    text = {prefix + key: tensor for key, tensor in modules["text_encoder"].state_dict().items()}
    return compvis.unet_tensors(modules["unet"]) | compvis.vae_tensors(modules["vae"]) | text


def sd2_file(modules: Modules) -> dict[str, Tensor]:
    """Stable Diffusion 2's layout: open_clip's text transformer with the layer that is skipped."""
    text = compvis.open_clip_tensors(modules["text_encoder"], "cond_stage_model.model.", skipped=1)
    return compvis.unet_tensors(modules["unet"]) | compvis.vae_tensors(modules["vae"]) | text


def sdxl_file(modules: Modules) -> dict[str, Tensor]:
    """Stable Diffusion XL's layout: CLIP as transformers has it, then open_clip."""
    prefix = "conditioner.embedders.0.transformer.text_model."
    clip = {prefix + key: tensor for key, tensor in modules["text_encoder"].state_dict().items()}
    text = clip | compvis.open_clip_tensors(modules["text_encoder_2"], "conditioner.embedders.1.model.")
    return compvis.unet_tensors(modules["unet"]) | compvis.vae_tensors(modules["vae"]) | text


def refiner_file(modules: Modules) -> dict[str, Tensor]:
    """The layout of Stable Diffusion XL's refiner: open_clip alone."""
    text = compvis.open_clip_tensors(modules["text_encoder_2"], "conditioner.embedders.0.model.")
    return compvis.unet_tensors(modules["unet"]) | compvis.vae_tensors(modules["vae"]) | text


UNET = tiny.UNET
SD2_UNET = {**UNET, "use_linear_projection": True, "upcast_attention": True, "attention_head_dim": [4, 8]}
SD2_TEXT = {
    **tiny.TEXT_ENCODER,
    "architectures": ["CLIPTextModel"],
    "hidden_act": "gelu",
    "num_hidden_layers": 3,
    "pad_token_id": 2,
}
SD2 = {"unet": SD2_UNET, "vae": tiny.VAE, "text_encoder": SD2_TEXT}
XL_UNET = {
    **UNET,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "use_linear_projection": True,
    "attention_head_dim": [4, 8],
    "transformer_layers_per_block": [1, 2],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24 + 6 * 8,
    "cross_attention_dim": 32 + 48,
}
XL_TEXT = {**tiny.TEXT_ENCODER, "architectures": ["CLIPTextModel"], "num_hidden_layers": 3}
XL_TEXT_2 = {
    **SD2_TEXT,
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "projection_dim": 24,
}
XL_VAE = {**tiny.VAE, "scaling_factor": 0.13025, "force_upcast": True}
XL = {"unet": XL_UNET, "vae": XL_VAE, "text_encoder": XL_TEXT, "text_encoder_2": XL_TEXT_2}
REFINER_UNET = {
    **XL_UNET,
    "projection_class_embeddings_input_dim": 24 + 5 * 8,
    "cross_attention_dim": 48,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
}
REFINER = {"unet": {**REFINER_UNET, "layers_per_block": 2}, "vae": XL_VAE, "text_encoder_2": XL_TEXT_2}
XL_TOKENIZERS = {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"}
NO_CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
NO_MARK = {"add_watermarker": False}
REFINED = {
    **NO_MARK,
    "text_encoder": None,
    "tokenizer": None,
    "requires_aesthetics_score": True,
    "force_zeros_for_empty_prompt": False,
}
EULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
V, EPSILON = (partial(tiny.build_scheduler, prediction) for prediction in ("v_prediction", "epsilon"))
XL_EULER = partial(EulerDiscreteScheduler, **EULER, timestep_spacing="leading")
TURBO_1 = partial(EulerDiscreteScheduler, **EULER, timestep_spacing="trailing")
TURBO_XL = partial(EulerAncestralDiscreteScheduler, **EULER, timestep_spacing="trailing")

SD1 = {"unet": UNET, "vae": tiny.VAE, "text_encoder": {**tiny.TEXT_ENCODER, "architectures": ["CLIPTextModel"]}}
LCM = {**SD1, "unet": {**UNET, "time_cond_proj_dim": 256}}
EOS = "<|endoftext|>"
# As segmind/tiny-sd: a layer a level, no middle. As SSD-1B: attention that is as deep as was left at each place.
PRUNED = {
    **SD1,
    "unet": {
        **UNET,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "mid_block_type": None,
    },
}
SSD_UNET = {
    **XL_UNET,
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, [2, 1]],
    "reverse_transformer_layers_per_block": [[1, 2, 1], 1],
    "mid_block_type": "UNetMidBlock2D",
}

# One level, and a first layer that takes further channels: those of a mask and a masked image, or of an image.
SMALL_UNET = {
    **UNET,
    "block_out_channels": (32,),
    "down_block_types": ("CrossAttnDownBlock2D",),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("UpBlock2D",),
}
SMALL_SD1 = {**SD1, "unet": SMALL_UNET}
SMALL = Tiny(StableDiffusionPipeline, SMALL_SD1, EPSILON, {"tokenizer": EOS}, None, NO_CHECKER)
SINGLE = replace(SMALL, file=sd1_file)
SMALL_SD2 = {**SD2, "unet": {**SMALL_UNET, "use_linear_projection": True}}


# As published: the places in a single file are counted by the layers.
XL_DEEP = {**XL, "unet": {**XL_UNET, "layers_per_block": 2}}


def widened(configs: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Returns the configs with a UNet that takes so many channels."""
    return {**configs, "unet": {**configs["unet"], "in_channels": channels}}


SHOWN = {
    "inpaint": Tiny(
        StableDiffusionInpaintPipeline, widened(SMALL_SD1, 9), EPSILON, {"tokenizer": EOS}, sd1_file, NO_CHECKER
    ),
    "sd2-inpaint": Tiny(
        StableDiffusionInpaintPipeline, widened(SMALL_SD2, 9), EPSILON, {"tokenizer": "!"}, sd2_file, NO_CHECKER
    ),
    "sdxl-inpaint": Tiny(StableDiffusionXLInpaintPipeline, widened(XL, 9), XL_EULER, XL_TOKENIZERS, sdxl_file, NO_MARK),
    "pix2pix": Tiny(
        StableDiffusionInstructPix2PixPipeline, widened(SMALL_SD1, 8), EPSILON, {"tokenizer": EOS}, sd1_file, NO_CHECKER
    ),
    "sdxl-pix2pix": Tiny(
        StableDiffusionXLInstructPix2PixPipeline, widened(XL_DEEP, 8), XL_EULER, XL_TOKENIZERS, sdxl_file, NO_MARK
    ),
}

TINY = {
    "lcm": Tiny(LatentConsistencyModelPipeline, LCM, LCMScheduler, {"tokenizer": EOS}, None, NO_CHECKER),
    "pruned": Tiny(StableDiffusionPipeline, PRUNED, EPSILON, {"tokenizer": EOS}, None, NO_CHECKER),
    "sd1": Tiny(StableDiffusionPipeline, SD1, EPSILON, {"tokenizer": EOS}, None, NO_CHECKER),
    "ssd": Tiny(StableDiffusionXLPipeline, {**XL, "unet": SSD_UNET}, XL_EULER, XL_TOKENIZERS, None, NO_MARK),
    "sd2": Tiny(StableDiffusionPipeline, SD2, V, {"tokenizer": "!"}, sd2_file, NO_CHECKER),
    "sdxl-refiner": Tiny(
        StableDiffusionXLImg2ImgPipeline, REFINER, XL_EULER, {"tokenizer_2": "!"}, refiner_file, REFINED
    ),
    "sdxl": Tiny(StableDiffusionXLPipeline, XL, XL_EULER, XL_TOKENIZERS, sdxl_file, NO_MARK),
}
# Families that have a layout of their own in a single file, by which they are known; it counts two layers a block.
FILES = {name: TINY[name] for name in ("sd2", "sdxl-refiner")} | {"sdxl": replace(TINY["sdxl"], configs=XL_DEEP)}
GUIDED = ({"guidance": 5.0, "negative": "blue"}, {"guidance": 5.0}, {"guidance": 1.0})
TURBO = ({"guidance": 0.0, "steps": 1}, {"guidance": 0.0, "steps": 4})
# What is published of each shape: its scheduler, and what is asked of it.
VARIANTS = {
    "lcm": ("lcm", LCMScheduler, ({"guidance": 8.5, "steps": 4}, {"guidance": 1.5, "steps": 1})),
    "sd2": ("sd2", V, GUIDED),
    "sd2-base": ("sd2", EPSILON, GUIDED),
    "sd-turbo": ("sd2", TURBO_1, TURBO),
    "sdxl": ("sdxl", XL_EULER, GUIDED),
    "tiny-sd": ("pruned", EPSILON, GUIDED[:1]),
    "ssd-1b": ("ssd", XL_EULER, GUIDED[:1]),
    "sdxl-turbo": ("sdxl", TURBO_XL, TURBO),
}
