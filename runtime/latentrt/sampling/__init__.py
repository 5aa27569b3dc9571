"""Sampling: noise schedules, curves, samplers, guidance, random numbers. NumPy alone."""
