"""The server on several machines, by Ray Serve."""

__all__ = ["pool"]
