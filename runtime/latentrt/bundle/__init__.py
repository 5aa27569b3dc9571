"""Bundles: folders with an exported model's graphs, and the manifest that describes them and how they are fed."""

__all__ = ["catalog", "folder", "manifest", "manifest_json", "quantization", "sources", "tasks", "upgrade"]
