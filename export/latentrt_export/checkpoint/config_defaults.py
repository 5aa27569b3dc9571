"""Values of entries that a config leaves out: defaults of diffusers' and transformers' classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latentrt_export.networks.component import Config
from latentrt_export.networks.known import TEXTS, transformer_kind

# Entries that distinguish model families, by component.
DEFAULTS: Mapping[str, Config] = {
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "use_linear_projection": False,
        "addition_embed_type": None,
        "attention_type": "default",
        "class_embed_type": None,
        "class_embeddings_concat": False,
        "encoder_hid_dim_type": None,
        "num_class_embeds": None,
        "resnet_time_scale_shift": "default",
    },
    "transformer": {"_class_name": "PixArtTransformer2DModel"},
    "vae": {"_class_name": "AutoencoderKL", "latents_mean": None, "latents_std": None},
    "class_embedding": {},
    "layout_encoder": {"model_type": "ldmbert"},
    "segmentation": {},
    "image_embedder": {"model_type": "clip_vision_model"},
    "noise_augmentor": {},
    "prior": {
        "added_emb_type": "prd",
        "embedding_proj_norm_type": None,
        "encoder_hid_proj_type": "linear",
        "norm_in_type": None,
    },
    "prior_text_encoder": {"model_type": "clip_text_model"},
    "text_encoder": {"model_type": "clip_text_model"},
    "text_encoder_2": {"model_type": "clip_text_model"},
    "text_encoder_3": {"model_type": "t5"},
}
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "prior_text_encoder")
# Entries of transformers 5.23's CLIPTextConfig.
TEXT_DEFAULTS: Config = {
    **{"vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "projection_dim": 512},
    **{"num_hidden_layers": 12, "num_attention_heads": 8, "max_position_embeddings": 77},
}
# Entries of diffusers 0.42.1's LDMBertConfig.
BERT_DEFAULTS: Config = {
    **{"vocab_size": 30522, "d_model": 1280, "encoder_ffn_dim": 5120, "encoder_layers": 32},
    **{"encoder_attention_heads": 8, "head_dim": 64, "max_position_embeddings": 77},
}


def completed(component: str, config: Config) -> dict[str, Any]:
    """Returns a component's config with the entries of a text encoder or a transformer that it leaves out.

    The width and depth of all text encoders are in it under CLIP's names too.
    """
    if component == "transformer":
        return transformer_kind(config).completed(config)
    if component not in TEXT_ENCODERS:
        return {**config}
    if (kind := TEXTS.get(str(config.get("model_type")))) is not None:
        return kind.completed(config)
    if config.get("model_type") != "ldmbert":
        return {**TEXT_DEFAULTS, **config}
    whole = {**BERT_DEFAULTS, **config}
    return {**whole, "hidden_size": whole["d_model"], "num_hidden_layers": whole["encoder_layers"]}
