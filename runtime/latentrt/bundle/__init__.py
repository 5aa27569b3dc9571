"""Bundles: folders with an exported model's graphs and the manifest that describes them."""
