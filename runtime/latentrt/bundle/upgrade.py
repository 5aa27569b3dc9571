"""Upgrade of a bundle: bundle.json is rewritten in the newest format, with its own hash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from latentrt.bundle.folder import (
    MANIFEST,
    REMEDY,
    Bundle,
    check_files,
    check_hashes,
    open_bundle,
    parsed,
    read_manifest,
)
from latentrt.bundle.manifest import Manifest
from latentrt.bundle.manifest_hash import unix
from latentrt.bundle.manifest_json import write
from latentrt.errors import BundleError, OutputError
from latentrt.storage.atomic import new_file


def unchanged(_folder: Path, manifest: Manifest) -> Manifest:
    """The manifest as it is."""
    return manifest


def upgrade(
    folder: Path, *, edited: bool = False, amend: Callable[[Path, Manifest], Manifest] = unchanged
) -> tuple[Bundle, bool]:
    """Checks all files, rewrites the bundle's manifest, and returns the bundle and True if the manifest changed.

    edited: skip the check of the manifest's own hash. amend: a function that adds files to the folder and returns the
    manifest with them. Raises BundleError for a damaged bundle, OutputError if it cannot be written; then the manifest
    stays unchanged.
    """
    before = read_manifest(folder)
    manifest = parsed(folder, unix(before), edited=edited)
    check_files(folder, manifest)
    check_hashes(folder, manifest)
    try:
        after = write(amended(folder, manifest, amend)).encode()
    except UnicodeEncodeError as error:
        raise BundleError(f"{folder / MANIFEST}: a text in it is not Unicode ({error}); {REMEDY}") from error
    if after != before:
        try:
            with new_file(folder / MANIFEST) as temporary:
                temporary.write_bytes(after)
        except OSError as error:
            raise cannot_write(folder / MANIFEST, error) from error
    return open_bundle(folder, verify=False), after != before


def amended(folder: Path, manifest: Manifest, amend: Callable[[Path, Manifest], Manifest]) -> Manifest:
    """The manifest after `amend`. Raises OutputError if the folder cannot be written."""
    try:
        return amend(folder, manifest)
    except OSError as error:
        raise cannot_write(folder, error) from error


def cannot_write(path: Path, error: OSError) -> OutputError:
    """The error to raise for a bundle that cannot be written."""
    return OutputError(f"{path}: cannot be written ({error.strerror or error}); copy the bundle first")
