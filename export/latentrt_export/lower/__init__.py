"""Lowering: a canonical graph becomes one that NVIDIA's builders fuse."""
