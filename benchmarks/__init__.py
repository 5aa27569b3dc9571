"""Measurements that are too long or too noisy for tests; each is a command, its output stands in docs/."""

from latentrt.engines.telemetry import silence

silence()
