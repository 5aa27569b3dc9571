"""Measurements that are too long or too noisy for tests. Each module is a command; its results are in docs/."""

from latentrt.engines.telemetry import silence

silence()
