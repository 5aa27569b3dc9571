"""Calibration: records trajectories, finds ranges, writes Q/DQ nodes and reports the loss. Empty so far."""

from latentrt.engines.silent import silence

silence()  # before any module here imports ONNX Runtime
