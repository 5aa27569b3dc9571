"""Calibration: records trajectories, finds ranges, writes Q/DQ nodes and reports the loss."""

from latentrt.engines.telemetry import silence

silence()  # before any module here imports ONNX Runtime
