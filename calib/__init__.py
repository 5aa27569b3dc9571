"""Calibration: records trajectories, finds ranges, writes Q/DQ nodes and reports the loss. Empty so far."""
