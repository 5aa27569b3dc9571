"""ControlNets of a checkpoint: folders or single files, checked against the config of its UNet."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers import ControlNetModel
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

from latentrt.errors import CheckpointError, first_few
from latentrt_export.checkpoint.builders import BUILDERS
from latentrt_export.checkpoint.folder import folder_source
from latentrt_export.checkpoint.load import Checkpoint, Component, matched
from latentrt_export.checkpoint.match import ComponentSource
from latentrt_export.checkpoint.named import NamedNetwork
from latentrt_export.checkpoint.paths import check_there
from latentrt_export.checkpoint.stored import header, under
from latentrt_export.networks.component import Config
from latentrt_export.networks.hoist import cross_attentions
from latentrt_export.networks.residuals import layout_of

KIND = "controlnet"
FILE_PREFIX = "control_model."
# Config entries that a ControlNet shares with its UNet.
SHARED = (
    "cross_attention_dim",
    "addition_embed_type",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
)
# Supported values of config entries. Only the ControlNet "shuffle" has another one: its residuals are pooled.
USUAL: Mapping[str, Any] = {
    "class_embed_type": None,
    "encoder_hid_dim_type": None,
    "resnet_time_scale_shift": "default",
    "controlnet_conditioning_channel_order": "rgb",
    "global_pool_conditions": False,
}


def with_controls(checkpoint: Checkpoint, controls: Sequence[NamedNetwork]) -> Checkpoint:
    """Returns the checkpoint with `controls`.

    Each is a folder of diffusers' ControlNetModel, or a .safetensors file in its layout or the original one, which is
    read with the UNet's config. Raises CheckpointError for files that are missing or damaged, and for a ControlNet of
    another family or width.
    """
    return replace(checkpoint, controls={one.name: opened_control(one.path, checkpoint) for one in controls})


def opened_control(path: Path, checkpoint: Checkpoint) -> Component:
    """A ControlNet that fits the checkpoint's UNet, not read yet."""
    check_there("ControlNet", path)
    component = matched(KIND, folder_source(path, KIND) if path.is_dir() else file_source(path, checkpoint))
    found = list(differences(component.config, checkpoint))
    if found:
        raise CheckpointError(
            f"the ControlNet {path} does not fit {checkpoint.source} ({checkpoint.family.name}): {first_few(found)}. "
            "It was made for another family or width; give one for this checkpoint"
        )
    return component


def file_source(path: Path, checkpoint: Checkpoint) -> ComponentSource:
    """The source of a single file, which has no config: it is read with the config of the checkpoint's UNet."""
    tensors = header(path)
    place = f"{path}, read as one for {checkpoint.source} ({checkpoint.family.name}),"
    config = {**config_beside(checkpoint.components["unet"].config), "in_channels": latent_channels(checkpoint)}
    return ComponentSource(place, config, under(FILE_PREFIX, tensors) or tensors, converted)


def config_beside(unet: Config) -> dict[str, Any]:
    """The config of a UNet's ControlNet, as of diffusers' ControlNetModel.from_unet."""
    known = inspect.signature(ControlNetModel.__init__).parameters
    return {key: value for key, value in unet.items() if key in known}


def latent_channels(checkpoint: Checkpoint) -> int:
    """The input channels of a ControlNet, also for a UNet with extra channels."""
    return int(checkpoint.components["vae"].config.get("latent_channels", 4))


def converted(tensors: dict[str, Any], config: Config) -> dict[str, Any]:
    """The tensors of a single file under diffusers' names."""
    return dict(convert_controlnet_checkpoint(tensors, config))


def differences(config: Config, checkpoint: Checkpoint) -> Iterator[str]:
    """Yields the reasons why a ControlNet does not fit a checkpoint's UNet."""
    control, unet = BUILDERS[KIND](config), BUILDERS["unet"](checkpoint.components["unet"].config)
    for key in SHARED:
        if control.config[key] != unet.config[key]:
            yield f"{key} is {control.config[key]}, expected {unet.config[key]}"
    if control.config.in_channels != latent_channels(checkpoint):
        yield f"in_channels is {control.config.in_channels}, expected {latent_channels(checkpoint)}"
    if layout_of(control) != layout_of(unet):
        levels = [(one.config.block_out_channels, one.config.layers_per_block) for one in (control, unet)]
        yield f"block_out_channels and layers_per_block are {levels[0]}, expected {levels[1]}"
    if not any(cross_attentions(control)):
        yield "it has no cross-attention, expected some"
    for key, usual in USUAL.items():
        if control.config[key] != usual:
            yield f"{key} is {control.config[key]!r}, expected {usual!r}"
