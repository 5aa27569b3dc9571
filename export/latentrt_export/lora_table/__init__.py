"""The table of weights that LoRA files may change, made from a bundle's graphs. Needs neither torch nor onnx."""

__all__ = ["initializers", "places", "table"]
