"""Sampling with NumPy alone: noise schedules, curves of noise levels, samplers, guidance, random numbers."""

__all__ = [
    "curves",
    "grids",
    "guidance",
    "inpainting",
    "noise",
    "prediction",
    "resize",
    "samplers",
    "schedule",
    "start_latents",
    "step",
    "tiling",
]
