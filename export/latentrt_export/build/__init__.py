"""Engine files: TensorRT plans for NVIDIA's GPUs, and graphs optimised for this processor."""

__all__ = ["cpu", "plan", "tensorrt"]
