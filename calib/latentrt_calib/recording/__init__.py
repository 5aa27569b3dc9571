"""Recordings of real runs: every input of the UNet and of the VAE decoder, and the folders that hold them."""

__all__ = ["archive", "prompts", "record", "requests", "workspace"]
