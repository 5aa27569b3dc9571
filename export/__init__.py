"""Export: checkpoints become torch modules, torch modules become the ONNX graphs of a bundle."""
