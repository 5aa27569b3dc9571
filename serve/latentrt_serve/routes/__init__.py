"""The interfaces of the server, one module each."""

__all__ = ["a1111", "a1111_answers", "a1111_options", "health", "jobs", "openai", "page"]
