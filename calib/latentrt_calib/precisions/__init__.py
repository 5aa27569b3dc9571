"""The precisions that a component is quantized to, and the choice of the layers that keep more bits for a budget."""

__all__ = ["choice", "context", "half", "int8", "weights"]
