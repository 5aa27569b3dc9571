"""Values of entries that a config leaves out: defaults of diffusers' and transformers' classes."""

from __future__ import annotations

from collections.abc import Mapping

from latentrt_export.networks.component import Config

# Entries that distinguish model families, by component.
DEFAULTS: Mapping[str, Config] = {
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "use_linear_projection": False,
        "addition_embed_type": None,
        "attention_type": "default",
        "class_embed_type": None,
        "encoder_hid_dim_type": None,
        "num_class_embeds": None,
        "resnet_time_scale_shift": "default",
    },
    "vae": {"_class_name": "AutoencoderKL", "latents_mean": None, "latents_std": None},
    "class_embedding": {},
    "segmentation": {},
    "text_encoder": {"model_type": "clip_text_model"},
    "text_encoder_2": {"model_type": "clip_text_model"},
}
# Entries of transformers 5.23's CLIPTextConfig.
TEXT_DEFAULTS: Config = {
    **{"vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "projection_dim": 512},
    **{"num_hidden_layers": 12, "num_attention_heads": 8, "max_position_embeddings": 77},
}
