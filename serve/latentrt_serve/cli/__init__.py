"""The command of the server."""

__all__ = ["serve"]
