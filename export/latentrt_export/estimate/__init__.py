"""Estimates of time and memory on devices."""
