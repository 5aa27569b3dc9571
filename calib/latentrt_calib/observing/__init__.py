"""Observing: ranges and histograms of a graph's tensors."""
