"""Evaluation: pictures of two bundles or graphs compared, noise per layer, and the damage of quantizing each layer."""

__all__ = [
    "cached",
    "candidate",
    "compare",
    "damage",
    "generate",
    "metrics",
    "noise",
    "sensitivity",
    "shortcuts",
    "work",
]
