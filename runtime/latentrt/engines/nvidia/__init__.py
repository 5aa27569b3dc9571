"""TensorRT and TensorRT-RTX: plans on disk, and their execution with CUDA."""

__all__ = ["bindings", "cuda", "lowered", "plans"]
