"""Requests: a row per field, and specs, which are a request with every choice made."""

__all__ = [
    "control",
    "controls",
    "few_step",
    "hires",
    "image_embedding",
    "interpolation",
    "model_inputs",
    "request",
    "rows",
    "settings",
    "step_cache",
]
