"""Quantization of a graph: ranges and scales of its layers, and the Q/DQ nodes that are written into it."""

__all__ = ["plan", "planning", "qdq", "split_concat"]
