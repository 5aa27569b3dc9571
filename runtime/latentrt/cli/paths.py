"""Paths among a command's arguments, checked before slow imports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from latentrt.errors import RequestError


def bundle_argument(name: str) -> Callable[[Any], Any]:
    """An argument for a bundle: a folder, a checkpoint or a name. Raises BundleError if there is none."""
    return click.argument(name, callback=existing_bundle)


def existing_bundle(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """The value, if it names a bundle, or a checkpoint, which is exported when it is opened. Raises BundleError."""
    from latentrt.bundle.catalog import folder_of
    from latentrt.bundle.checkpoint import is_checkpoint
    from latentrt.bundle.folder import MANIFEST, open_bundle

    if is_checkpoint(Path(value)):
        return value
    folder = folder_of(value)
    if not (folder / MANIFEST).is_file():
        open_bundle(folder, verify=False)  # raises the error with the reason
    return value


def bundle_or_network(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """The value, if it names an ONNX file or a bundle. Raises BundleError."""
    return value if is_network(value) else existing_bundle(context, parameter, value)


def is_network(value: str) -> bool:
    """Whether a value of --bundle is an ONNX file, of a network without a bundle."""
    return value.lower().endswith(".onnx") and Path(value).is_file()


def check_files(*files: Path | None) -> None:
    """Raises RequestError for a missing file of prompts; `-` is stdin."""
    for file in files:
        if file is not None and f"{file}" != "-" and not file.is_file():
            raise RequestError(f"no prompts at {file}: expected a text file in UTF-8, one prompt per line")
