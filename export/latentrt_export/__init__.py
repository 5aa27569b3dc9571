"""Export: checkpoints become torch modules, torch modules become the ONNX graphs of a bundle."""

from latentrt.engines.telemetry import silence

silence()  # before any module here imports ONNX Runtime
