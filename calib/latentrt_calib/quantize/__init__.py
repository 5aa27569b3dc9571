"""Quantization of a graph: its layers, their ranges and scales, and the Q/DQ nodes that are written into it."""

__all__ = ["blocks", "four_bits", "layers", "plan", "planning", "qdq", "split_concat"]
