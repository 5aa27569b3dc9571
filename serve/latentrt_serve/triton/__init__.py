"""A model repository of the Triton Inference Server, whose Python backend runs a bundle."""

__all__ = ["repository"]
