"""Bundles: folders with an exported model's graphs, and the manifest that describes the graphs and their inputs."""

__all__ = ["catalog", "folder", "manifest", "manifest_json", "presets", "quantization", "sources", "tasks", "upgrade"]
