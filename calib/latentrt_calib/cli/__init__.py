"""The commands `latentrt calibrate`, `latentrt compare` and `latentrt presets`."""

__all__ = ["calibrate", "compare", "presets"]
