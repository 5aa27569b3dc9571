"""Upgrade of bundles of earlier versions, with the table of weights for LoRA files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from latentrt.bundle.folder import Bundle, record_files
from latentrt.bundle.manifest import Manifest
from latentrt.bundle.upgrade import upgrade as rewrite
from latentrt_export.lora_table.table import with_table


def upgrade(folder: Path, *, edited: bool = False) -> tuple[Bundle, bool]:
    """Adds the table of weights for LoRA files if there is none, and rewrites the bundle's manifest.

    Arguments, results and errors are those of `latentrt.bundle.upgrade.upgrade`.
    """
    return rewrite(folder, edited=edited, amend=with_missing_table)


def with_missing_table(folder: Path, manifest: Manifest) -> Manifest:
    """Writes the table if the manifest names none. Returns the manifest with the table among its files."""
    if manifest.lora_weights:
        return manifest
    found = with_table(folder, manifest)
    return replace(found, files={**found.files, **record_files(folder, filter(None, [found.lora_weights]))})
