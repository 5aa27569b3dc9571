"""ONNX graphs: traced, made canonical, measured, saved."""
