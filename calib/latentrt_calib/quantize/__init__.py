"""Quantization: which layers, by which scales."""
