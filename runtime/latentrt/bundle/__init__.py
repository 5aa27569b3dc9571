"""Bundles: folders with an exported model's graphs, and the manifest that describes the graphs and their inputs."""

__all__ = [
    "auto_export",
    "cached",
    "catalog",
    "checkpoint",
    "folder",
    "library",
    "manifest",
    "manifest_json",
    "presets",
    "quantization",
    "sources",
    "tasks",
    "upgrade",
]
