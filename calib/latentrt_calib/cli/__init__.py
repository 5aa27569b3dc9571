"""The commands `latentrt calibrate` and `latentrt compare`."""

__all__ = ["calibrate", "compare"]
