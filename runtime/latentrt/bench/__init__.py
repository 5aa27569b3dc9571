"""Benchmarks: times of a bundle on this machine, phase by phase, and a verdict on the figures. See docs/bench.md."""

__all__ = ["benchmark", "compare", "diagnosis", "measure", "report", "save", "tables"]
