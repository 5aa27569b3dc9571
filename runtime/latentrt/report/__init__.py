"""HTML reports: each is one file that needs no other file and no script."""

__all__ = ["document", "markup", "plots"]
