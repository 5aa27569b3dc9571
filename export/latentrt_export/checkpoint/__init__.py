"""Checkpoints: found, read, matched with the modules that hold their weights."""
