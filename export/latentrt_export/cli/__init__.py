"""The commands `latentrt export`, `latentrt build` and `latentrt estimate`."""

__all__ = ["build", "estimate", "export"]
