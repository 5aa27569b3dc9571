"""Keys of the latent diffusion paper's own files, CompVis/latent-diffusion, and diffusers' names for them.

The UNet without cross-attention (`openaimodel.py`) becomes a UNet2DModel, the first stages (`autoencoder.py`) become an
AutoencoderKL or a VQModel. diffusers' own conversions leave out self-attention alone, ResNets that resample, codebooks,
and attention at the levels of first stages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TypeVar

from torch import Tensor

from latentrt_export.checkpoint.layouts import VAE_PREFIX, Tensors
from latentrt_export.networks.component import Config

T = TypeVar("T")
UNET_PREFIX = "model.diffusion_model."
EMA_PREFIX = "model_ema."
# Pairs of a layer's name in the files, without prefix, and in diffusers.
Layers = Iterator[tuple[str, str]]
KINDS = ("weight", "bias")
RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ATTENTION = {"norm": "group_norm", "proj_out": "to_out.0"}
ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
PROJECTIONS = ("to_q", "to_k", "to_v")
STAGE = re.compile(r"^(encoder|decoder)\.(?:(down|up)\.(\d+)\.|mid\.)?(.*)$")
STAGE_BLOCKS = {"block_1": "resnets.0", "block_2": "resnets.1", "attn_1": "attentions.0"}
STAGE_RESNET = {"nin_shortcut": "conv_shortcut", "norm_out": "conv_norm_out"}
STAGE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def averaged(tensors: Mapping[str, T]) -> dict[str, T]:
    """The tensors of a file, each UNet weight replaced by its moving average if it has one, as the original samples.

    The name of an average has no dots: `model_ema.diffusion_modelinput_blocks00weight`.
    """
    averages = {key: EMA_PREFIX + key.removeprefix("model.").replace(".", "") for key in tensors}
    return {key: tensors.get(averages[key], one) for key, one in tensors.items() if not key.startswith(EMA_PREFIX)}


def unet2d_keys(tensors: Tensors, config: Config) -> Tensors:
    """The tensors of an original UNet without cross-attention under UNet2DModel's names."""
    found = Tensors()
    for theirs, ours in unet_layers(config):
        for kind in KINDS:
            tensor = tensors.get(f"{UNET_PREFIX}{theirs}.{kind}")
            if tensor is None:
                continue
            if not theirs.endswith(".qkv"):
                found[f"{ours}.{kind}"] = tensor[..., 0] if tensor.ndim == 3 else tensor
                continue
            for place, projection in enumerate(PROJECTIONS):
                found[f"{ours}.{projection}.{kind}"] = of_heads(tensor, heads_of(config, len(tensor) // 3), place)
    return found


def of_heads(tensor: Tensor, heads: int, place: int) -> Tensor:
    """The rows of queries, keys or values: those of a file are ordered by head, then query, key, value."""
    rows = tensor.reshape(heads, 3, -1, *tensor.shape[1:])[:, place].flatten(0, 1)
    return rows[..., 0] if rows.ndim == 3 else rows


def heads_of(config: Config, width: int) -> int:
    """The number of heads of an attention of that width."""
    return int(config.get("num_heads") or width // config["attention_head_dim"])


def unet_layers(config: Config) -> Layers:
    """Yields the names of all layers; attention's projections are one layer, `qkv`, which belongs to its block."""
    yield from ENDS.items()
    yield from down_layers(config)
    yield from resnet_layers("middle_block.0", "mid_block.resnets.0")
    yield from attention_layers("middle_block.1", "mid_block.attentions.0")
    yield from resnet_layers("middle_block.2", "mid_block.resnets.1")
    yield from up_layers(config)


def down_layers(config: Config) -> Layers:
    """Yields the names of the layers on the way down."""
    number, levels = 1, len(config["block_out_channels"])
    for level in range(levels):
        for layer in range(config["layers_per_block"]):
            yield from resnet_layers(f"input_blocks.{number}.0", f"down_blocks.{level}.resnets.{layer}")
            yield from attention_layers(f"input_blocks.{number}.1", f"down_blocks.{level}.attentions.{layer}")
            number += 1
        if level < levels - 1:
            theirs, ours = f"input_blocks.{number}.0", f"down_blocks.{level}.downsamplers.0"
            yield f"{theirs}.op", f"{ours}.conv"
            yield from resnet_layers(theirs, ours)
            number += 1


def up_layers(config: Config) -> Layers:
    """Yields the names of the layers on the way up."""
    number, kinds = 0, config["up_block_types"]
    for level, kind in enumerate(kinds):
        for layer in range(config["layers_per_block"] + 1):
            yield from resnet_layers(f"output_blocks.{number}.0", f"up_blocks.{level}.resnets.{layer}")
            if "Attn" in kind:
                yield from attention_layers(f"output_blocks.{number}.1", f"up_blocks.{level}.attentions.{layer}")
            number += 1
        if level < len(kinds) - 1:
            theirs = f"output_blocks.{number - 1}.{2 if 'Attn' in kind else 1}"
            yield f"{theirs}.conv", f"up_blocks.{level}.upsamplers.0.conv"
            yield from resnet_layers(theirs, f"up_blocks.{level}.upsamplers.0")


def resnet_layers(theirs: str, ours: str) -> Layers:
    """Yields the names of a ResNet's layers."""
    return ((f"{theirs}.{old}", f"{ours}.{new}") for old, new in RESNET.items())


def attention_layers(theirs: str, ours: str) -> Layers:
    """Yields the names of a self-attention's layers."""
    yield f"{theirs}.qkv", ours
    yield from ((f"{theirs}.{old}", f"{ours}.{new}") for old, new in ATTENTION.items())


def first_stage_keys(tensors: Tensors, config: Config) -> Tensors:
    """The tensors of an original first stage, KL or VQ, under diffusers' names."""
    bare = {VAE_PREFIX.sub("", key): tensor for key, tensor in tensors.items()}
    levels = len(config["block_out_channels"])
    named = {stage_name(key, levels): tensor for key, tensor in bare.items()}
    # Attention is convolutions of one pixel in the files, and linear layers in diffusers.
    return {
        key: tensor[..., 0, 0] if ".attentions." in key and tensor.ndim == 4 else tensor
        for key, tensor in named.items()
    }


def stage_name(key: str, levels: int) -> str:
    """The name of a first stage's tensor; levels upwards are counted from the other end."""
    match = STAGE.match(key)
    if match is None:
        return key
    half, way, level, rest = match.groups()
    *block, layer, kind = rest.split(".")
    if way is None:
        place = f"mid_block.{STAGE_BLOCKS[block[0]]}." if block else ""
    else:
        place = f"{way}_blocks.{levels - 1 - int(level) if way == 'up' else level}."
        names = {"block": "resnets", "attn": "attentions", "downsample": "downsamplers", "upsample": "upsamplers"}
        place += f"{names[block[0]]}.{block[1] if len(block) > 1 else 0}."
    layers = STAGE_ATTENTION if "attentions" in place else STAGE_RESNET
    return f"{half}.{place}{layers.get(layer, layer)}.{kind}"
