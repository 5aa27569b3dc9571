"""A bundle's components, as modules with the inputs that they are traced with."""

__all__ = ["parts", "tiny_decoder"]
