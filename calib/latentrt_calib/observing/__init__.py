"""Observation of a graph's inner values over a recording: ranges, histograms and samples, per range of timesteps."""

__all__ = ["histogram", "magnitudes", "observations", "observe", "session"]
