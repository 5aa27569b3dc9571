"""Lowering: canonical graphs rewritten in the forms that NVIDIA's builders or ONNX Runtime on a CPU need."""

__all__ = ["fused", "half", "stripes", "tensorrt"]
