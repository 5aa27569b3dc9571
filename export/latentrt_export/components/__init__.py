"""A bundle's components, as modules with the inputs that they are traced with."""

__all__ = ["denoiser", "parts", "text", "tiny_decoder", "vae"]
