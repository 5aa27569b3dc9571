"""The modules of every kind of component, from their configs: on torch's meta device, without memory for weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, T2IAdapter, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from latentrt.export.families import Config


def from_config(kind: Any) -> Callable[[Config], Any]:
    """What builds a module of diffusers of that class."""

    def build(config: Config) -> Any:
        with torch.device("meta"):
            return kind.from_config(dict(config))

    return build


def tiny_decoder(config: Config) -> AutoencoderTiny:
    """The decoder alone."""
    module: AutoencoderTiny = from_config(AutoencoderTiny)(config)
    del module.encoder  # never used: no weights are wanted for it
    return module


def text_encoder(config: Config) -> CLIPTextModel:
    """A text encoder."""
    with torch.device("meta"):
        return positioned(CLIPTextModel(text_config(config)))


def projected(config: Config) -> CLIPTextModelWithProjection:
    """A text encoder that sums a prompt up besides."""
    with torch.device("meta"):
        module = CLIPTextModelWithProjection(text_config(config))
    positioned(module.text_model)
    return module


def text_config(config: Config) -> CLIPTextConfig:
    """The config of a text encoder in float32."""
    known = {key: value for key, value in config.items() if key != "torch_dtype"}
    return CLIPTextConfig.from_dict({**known, "dtype": "float32"})


def positioned(module: CLIPTextModel) -> CLIPTextModel:
    """The text encoder with its positions, the one buffer of all modules; it is never stored."""
    module.embeddings.position_ids = torch.arange(module.config.max_position_embeddings, device="cpu").expand((1, -1))
    return module


BUILDERS: Mapping[str, Callable[[Config], Any]] = {
    "unet": from_config(UNet2DConditionModel),
    "vae": from_config(AutoencoderKL),
    "tiny_decoder": tiny_decoder,
    "text_encoder": text_encoder,
    "text_encoder_2": projected,
    "controlnet": from_config(ControlNetModel),
    "t2i_adapter": from_config(T2IAdapter),
}
