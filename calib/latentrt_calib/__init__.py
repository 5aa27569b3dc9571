"""Quantization of bundles to 8 bits, and comparison of the pictures of two bundles.

`calibrate.calibrate` writes a quantized bundle; `evaluate.compare.compare_bundles` compares two bundles. Modules are
imported when they are used: `latentrt calibrate --help` imports neither NumPy nor ONNX.
"""

from latentrt.engines.telemetry import silence

__all__ = ["calibrate", "cli", "evaluate", "precisions", "presets", "publish", "report"]

silence()  # before any module here imports ONNX Runtime
