"""Values of entries that a config leaves out: defaults of diffusers' and transformers' classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latentrt_export.networks.component import Config

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
}
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "prior_text_encoder")
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
# Entries of transformers 5.24's T5Config.
T5_DEFAULTS: Config = {
    **{"vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    **{"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128},
}
# Entries of diffusers 0.42.1's PixArtTransformer2DModel.
PIXART_DEFAULTS: Config = {
    **{"num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8, "num_layers": 28},
    **{"cross_attention_dim": 1152, "sample_size": 128, "patch_size": 2, "caption_channels": None},
    **{"activation_fn": "gelu-approximate", "attention_bias": True, "attention_type": "default"},
    **{"norm_type": "ada_norm_single", "norm_elementwise_affine": False, "upcast_attention": False},
    **{"interpolation_scale": None, "use_additional_conditions": None},
}
# The size of latents from which PixArt's transformers take the picture's size too, unless their config says otherwise.
CONDITIONED_SIZE, UNSCALED_SIZE = 128, 64


def completed(component: str, config: Config) -> dict[str, Any]:
    """Returns a component's config with the entries of a text encoder or a transformer that it leaves out.

    LDM-BERT's and T5's width and depth are in it under CLIP's names too.
    """
    if component == "transformer":
        return completed_transformer(config)
    if component not in TEXT_ENCODERS:
        return {**config}
    if config.get("model_type") == "t5":
        whole = {**T5_DEFAULTS, **config}
        return {**whole, "hidden_size": whole["d_model"], "num_hidden_layers": whole["num_layers"]}
    if config.get("model_type") != "ldmbert":
        return {**TEXT_DEFAULTS, **config}
    whole = {**BERT_DEFAULTS, **config}
    return {**whole, "hidden_size": whole["d_model"], "num_hidden_layers": whole["encoder_layers"]}


def completed_transformer(config: Config) -> dict[str, Any]:
    """Returns the config of a PixArt transformer with the entries that it leaves out, as the class fills them in."""
    whole = {**PIXART_DEFAULTS, **config}
    size = int(whole["sample_size"])
    usual = {
        "interpolation_scale": max(size // UNSCALED_SIZE, 1),
        "use_additional_conditions": size == CONDITIONED_SIZE,
    }
    return {**whole, **{key: value for key, value in usual.items() if whole[key] is None}}
