"""Layouts of keys: conversion of tensor names in published files to those of today's modules."""

from __future__ import annotations

import re

from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

from latentrt_export.networks.component import Config
from latentrt_export.networks.kinds import Tensors as Tensors
from latentrt_export.networks.known import TEXTS

Shape = tuple[int, ...]

# Prefixes in single files of a text encoder in CLIP's layout, and of one in open_clip's.
CLIP_PREFIX = r"cond_stage_model\.transformer\.|conditioner\.embedders\.0\.transformer\."
OPEN_CLIP_PREFIX = re.compile(r"^(cond_stage_model|conditioner\.embedders\.\d)\.model\.")


def unet_keys(tensors: Tensors, config: Config) -> Tensors:
    """Returns the tensors of a UNet in the original layout under UNet2DConditionModel's names."""
    return dict(convert_ldm_unet_checkpoint(tensors, config))


def text_keys(tensors: Tensors, config: Config) -> Tensors:
    """Returns the tensors under CLIPTextModel's names: transformers 5 has no `text_model.`, all older files do."""
    return {re.sub(rf"^({CLIP_PREFIX})?(text_model\.)?", "", key): t for key, t in tensors.items()}


# OpenCLIP's names of a text transformer's parts, and transformers' names, replaced in this order.
OPEN_CLIP = {
    "transformer.resblocks.": "encoder.layers.",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    ".attn.": ".self_attn.",
    "ln_final": "final_layer_norm",
    "token_embedding": "embeddings.token_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
}
IN_PROJECTION = re.compile(r"in_proj_(weight|bias)$")


def open_clip_keys(tensors: Tensors, config: Config) -> Tensors:
    """Returns the tensors under transformers' names, with the stacked projections of attention split.

    Source: the layout of open_clip's TextTransformer, whose attention is torch's MultiheadAttention.
    """
    converted, width = {}, config["hidden_size"]
    for name, tensor in tensors.items():
        key = OPEN_CLIP_PREFIX.sub("", name)
        for theirs, ours in OPEN_CLIP.items():
            key = key.replace(theirs, ours)
        if not IN_PROJECTION.search(key):
            converted[key] = tensor
            continue
        for place, letter in enumerate("qkv"):
            rows = tensor[place * width : (place + 1) * width]
            converted[IN_PROJECTION.sub(rf"{letter}_proj.\1", key)] = rows
    if "text_projection" in converted:
        converted["text_projection.weight"] = converted.pop("text_projection").T
    return converted


# AutoencoderKL's attention before diffusers 0.12, as in the published Stable Diffusion 1.5.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_NAMES = re.compile(r"(?<=attentions\.0\.)(query|key|value|proj_attn)(?=\.)")
# The original autoencoder's attention, for files whose tools wrote one of diffusers' names for it.
ORIGINAL_ATTENTION = {
    **{"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out", "group_norm": "norm"},
    **{"query": "q", "key": "k", "value": "v", "proj_attn": "proj_out"},
}
MIXED_NAMES = re.compile(r"(?<=mid\.attn_1\.)(to_[qkv]|to_out\.0|group_norm|query|key|value|proj_attn)(?=\.)")
VAE_PREFIX = re.compile(r"^(model\.)?(first_stage_model|vae)\.")


def folder_keys(tensors: Tensors, config: Config) -> Tensors:
    """Returns the tensors of a diffusers folder under the names of today's modules."""
    if (kind := TEXTS.get(str(config.get("model_type")))) is not None:
        return kind.keys(tensors)
    return text_keys({OLD_NAMES.sub(lambda m: OLD_ATTENTION[m[0]], key): t for key, t in tensors.items()}, config)


def vae_keys(tensors: Tensors, config: Config) -> Tensors:
    """Returns the tensors of a VAE under AutoencoderKL's names, from a file in the original layout or in diffusers'."""
    bare = {VAE_PREFIX.sub("", key): t for key, t in tensors.items()}
    if any(".mid_block." in key for key in bare):
        return folder_keys(bare, config)
    named = {MIXED_NAMES.sub(lambda m: ORIGINAL_ATTENTION[m[0]], key): t for key, t in bare.items()}
    return dict(convert_ldm_vae_checkpoint(named, config))
