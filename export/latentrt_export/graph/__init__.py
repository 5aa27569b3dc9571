"""ONNX graphs: traced, made canonical, converted to a precision, counted, run and saved."""

__all__ = [
    *("activations", "constants", "costs", "eight_bit_weights", "eight_bits", "emulation", "four_bit_weights"),
    *("four_bits", "layers", "precision", "save", "session", "step_cache", "trace"),
]
