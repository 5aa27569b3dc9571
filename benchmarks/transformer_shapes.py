"""Shapes of published transformers and of their text encoders: what their configs say beside the defaults."""

QWEN3 = {
    **{"vocab_size": 151_936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36},
    **{"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40_960},
    "rope_theta": 1_000_000,
}
KLEIN = {
    **{"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680},
    "guidance_embeds": False,
}
T5_XXL = {
    **{"vocab_size": 32_128, "d_model": 4096, "d_kv": 64, "d_ff": 10_240, "num_layers": 24, "num_heads": 64},
    "feed_forward_proj": "gated-gelu",
}
PIXART = {"sample_size": 64, "caption_channels": 4096, "interpolation_scale": 1, "use_additional_conditions": False}
SD35_MEDIUM = {
    **{"num_layers": 24, "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096},
    **{"caption_projection_dim": 1536, "pooled_projection_dim": 2048, "pos_embed_max_size": 384},
    **{"dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"},
}
SD3_VAE = {
    **{"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 16},
    **{"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4},
    **{"use_quant_conv": False, "use_post_quant_conv": False},
}
