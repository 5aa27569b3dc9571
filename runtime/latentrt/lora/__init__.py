"""LoRA files: their layers, the weights that they change, and the changes. NumPy alone, for export and the runtime."""

__all__ = [
    "change",
    "files",
    "folder",
    "layers",
    "parse",
    "places",
    "tagged",
    "weights",
]
