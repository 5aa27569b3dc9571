"""Recordings of real runs: every input of both UNets and of the VAE decoder, and the folders that hold them."""

__all__ = ["archive", "cached", "inits", "prompts", "record", "requests", "subjects", "workspace"]
