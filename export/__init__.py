"""Export: checkpoints become torch modules, torch modules become the ONNX graphs of a bundle."""

from latentrt.engines.silent import silence

silence()  # before any module here imports ONNX Runtime
