"""The commands `latentrt export`, `latentrt build`, `latentrt estimate` and `latentrt upgrade`."""

__all__ = ["build", "estimate", "export", "upgrade"]
