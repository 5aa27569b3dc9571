"""ONNX graphs: traced, made canonical, converted to a precision, counted, run and saved."""

__all__ = ["activations", "constants", "costs", "emulation", "precision", "save", "session", "step_cache", "trace"]
