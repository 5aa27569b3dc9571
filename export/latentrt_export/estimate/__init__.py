"""Estimates of time and memory on devices: peak rates of devices, and a roofline over a bundle's graphs."""

__all__ = ["devices", "estimate", "roofline"]
