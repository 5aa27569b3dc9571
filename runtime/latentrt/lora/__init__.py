"""LoRA files: what they say, which weights they change and by how much. NumPy alone, for export and the runtime."""
