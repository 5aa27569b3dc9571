"""Recordings of real runs: every input of the UNet and of the VAE decoder, and the folders that hold them."""

__all__ = ["archive", "inits", "prompts", "record", "requests", "subjects", "workspace"]
