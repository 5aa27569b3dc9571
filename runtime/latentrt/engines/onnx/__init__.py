"""ONNX Runtime: sessions for a CPU or a GPU, and graphs optimised for this processor."""

__all__ = ["bare", "branches", "engine", "initializers", "optimised", "protobuf", "session"]
