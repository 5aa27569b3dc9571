"""Modules of every kind of component, built from configs on torch's meta device, without memory for weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderTiny,
    ControlNetModel,
    PriorTransformer,
    T2IAdapter,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from diffusers.models.attention_processor import Attention
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from latentrt_export.networks.autoencoder import Statistics
from latentrt_export.networks.component import Config
from latentrt_export.networks.image_embedding import NOISE, NoiseAugmentor
from latentrt_export.networks.kinds import in_float32
from latentrt_export.networks.known import TEXTS, transformer_kind
from latentrt_export.networks.prior import causal_mask


def from_config(kind: Any) -> Callable[[Config], Any]:
    """A builder of modules of that diffusers class."""

    def build(config: Config) -> Any:
        with torch.device("meta"):
            return kind.from_config(dict(config))

    return build


def unet(config: Config) -> UNet2DConditionModel | UNet2DModel:
    """A UNet of the class that its config names.

    num_heads: of a UNet2DModel, an entry beside diffusers': the heads of all attentions, whatever their width.
    """
    if config.get("_class_name") != "UNet2DModel":
        module: UNet2DConditionModel = from_config(UNet2DConditionModel)(config)
        return module
    plain_unet: UNet2DModel = from_config(UNet2DModel)({key: one for key, one in config.items() if key != "num_heads"})
    heads = config.get("num_heads")
    for attn in plain_unet.modules() if heads else ():
        if isinstance(attn, Attention):
            attn.heads, attn.scale = heads, (attn.inner_dim / heads) ** -0.5
    return plain_unet


def autoencoder(config: Config) -> AutoencoderKL | AutoencoderKLFlux2 | VQModel:
    """An autoencoder of the class that its config names.

    Latents of a VQ model are of unit variance where its config names no factor: the original has none, and the default
    of diffusers' class is Stable Diffusion's.
    """
    if config.get("_class_name") == "AutoencoderKLFlux2":
        patched: AutoencoderKLFlux2 = from_config(AutoencoderKLFlux2)(config)
        patched.bn = Statistics(patched.bn.num_features)
        return patched
    if config.get("_class_name") != "VQModel":
        module: AutoencoderKL = from_config(AutoencoderKL)(config)
        return module
    quantized: VQModel = from_config(VQModel)({"scaling_factor": 1.0, **config})
    return quantized


def class_embedding(config: Config) -> nn.Embedding:
    """The table of class embeddings."""
    return nn.Embedding(config["num_embeddings"], config["embedding_dim"], device="meta")


def segmentation(config: Config) -> nn.Conv2d:
    """The map from one-hot labels to channels."""
    return nn.Conv2d(config["labels"], config["channels"], 1, bias=False, device="meta")


def tiny_decoder(config: Config) -> AutoencoderTiny:
    """A TAESD without its encoder."""
    module: AutoencoderTiny = from_config(AutoencoderTiny)(config)
    del module.encoder  # never used, so its weights are not needed
    return module


def text_encoder(config: Config) -> Any:
    """A text encoder of the kind that its config names: CLIP's, LDM-BERT without its head, or one of `TEXTS`.

    projected: an entry beside transformers', of a family that reads the projected pooled output of CLIP's.
    """
    if (kind := TEXTS.get(str(config.get("model_type")))) is not None:
        return kind.build(config)
    if config.get("model_type") == "ldmbert":
        with torch.device("meta"):
            bert = LDMBertModel(in_float32(LDMBertConfig, config))
        del bert.to_logits  # of the training, so its weights are not needed
        return bert
    if config.get("projected"):
        return projected(config)
    with torch.device("meta"):
        module = CLIPTextModel(in_float32(CLIPTextConfig, config))
    add_positions(module.embeddings)
    return module


def transformer(config: Config) -> Any:
    """A transformer of the class that its config names."""
    return transformer_kind(config).build(config)


def projected(config: Config) -> CLIPTextModelWithProjection:
    """A CLIP text encoder with a projected pooled output."""
    with torch.device("meta"):
        module = CLIPTextModelWithProjection(in_float32(CLIPTextConfig, config))
    add_positions(module.text_model.embeddings)
    return module


def image_encoder(config: Config) -> CLIPVisionModelWithProjection:
    """The CLIP image encoder of IP-Adapters and of unCLIP models."""
    with torch.device("meta"):
        module = CLIPVisionModelWithProjection(in_float32(CLIPVisionConfig, config))
    add_positions(module.vision_model.embeddings)
    return module


def noise_augmentor(config: Config) -> NoiseAugmentor:
    """The noise augmentor of unCLIP models, whose weights are the mean and the deviation of embeddings."""
    with torch.device("meta"):
        return NoiseAugmentor(config)


def prior(config: Config) -> PriorTransformer:
    """The prior of unCLIP models, with the mask that files do not store."""
    module: PriorTransformer = from_config(PriorTransformer)({key: one for key, one in config.items() if key != NOISE})
    module.causal_attention_mask = causal_mask(module.positional_embedding.shape[1])
    return module


def add_positions(embeddings: Any) -> None:
    """Adds the buffer `position_ids` of a CLIP transformer, which files do not store."""
    count = embeddings.position_embedding.num_embeddings
    embeddings.position_ids = torch.arange(count, device="cpu").expand((1, -1))


BUILDERS: Mapping[str, Callable[[Config], Any]] = {
    "unet": unet,
    "transformer": transformer,
    "vae": autoencoder,
    "class_embedding": class_embedding,
    "layout_encoder": text_encoder,
    "segmentation": segmentation,
    "tiny_decoder": tiny_decoder,
    "text_encoder": text_encoder,
    "text_encoder_2": projected,
    "text_encoder_3": text_encoder,
    "prior_text_encoder": projected,
    "prior": prior,
    "controlnet": from_config(ControlNetModel),
    "t2i_adapter": from_config(T2IAdapter),
    "image_encoder": image_encoder,
    "image_embedder": image_encoder,
    "noise_augmentor": noise_augmentor,
}
