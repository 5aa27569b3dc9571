"""Upgrade of bundles of earlier versions, with the table of weights for LoRA files and the memory of activations."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from latentrt.bundle.folder import Bundle, record_files
from latentrt.bundle.manifest import Manifest
from latentrt.bundle.upgrade import upgrade as rewrite
from latentrt_export.lora_table.table import with_table


def upgrade(folder: Path, *, edited: bool = False) -> tuple[Bundle, bool]:
    """Adds the table of weights for LoRA files and the memory of activations if missing, and rewrites the manifest.

    Arguments, results and errors are those of `latentrt.bundle.upgrade.upgrade`.
    """
    return rewrite(folder, edited=edited, amend=with_missing)


def with_missing(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest with what bundles of earlier versions lack; a new table is written.

    The memory of activations is counted from graphs, so it is left out where the package onnx-ir is not installed.
    """
    if find_spec("onnx_ir") is not None:
        from latentrt_export.graph.activations import with_activations  # here: it needs that package

        manifest = with_activations(folder, manifest)
    return with_missing_table(folder, manifest)


def with_missing_table(folder: Path, manifest: Manifest) -> Manifest:
    """Writes the table if the manifest names none. Returns the manifest with the table among its files."""
    if manifest.lora_weights:
        return manifest
    found = with_table(folder, manifest)
    return replace(found, files={**found.files, **record_files(folder, filter(None, [found.lora_weights]))})
