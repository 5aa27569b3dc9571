"""Torch modules in the form in which they are traced: divided, with hoisted projections and residuals as inputs."""

__all__ = [
    "adapter_network",
    "autoencoder",
    "bert",
    "component",
    "control_network",
    "hoist",
    "image_embedding",
    "image_encoder",
    "one_token",
    "pixart",
    "prior",
    "residuals",
    "segmentation",
    "t5",
    "text_encoder",
    "time_bias",
]
