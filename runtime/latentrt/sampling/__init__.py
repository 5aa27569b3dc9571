"""Sampling with NumPy alone: noise schedules, curves of noise levels, samplers, guidance, random numbers."""

__all__ = [
    "calls",
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
    "step_cache",
    "tiling",
]
