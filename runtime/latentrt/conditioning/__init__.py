"""Conditioning: all inputs of the denoiser but the noisy latents, made from the sources that a manifest declares."""

__all__ = [
    "control",
    "extra_channels",
    "image_embedding",
    "inputs",
    "positions",
    "prior",
    "prompt_blend",
    "prompts",
    "references",
    "request_values",
    "rotary",
    "text",
]
