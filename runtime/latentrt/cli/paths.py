"""Paths among a command's arguments, looked at before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from latentrt.errors import RequestError


def bundle_argument(name: str) -> Callable[[Any], Any]:
    """The argument of that name, a bundle's folder or a built-in model's name; BundleError where there is none."""
    return click.argument(name, callback=there)


def there(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """The value, where a bundle is there."""
    from latentrt.bundle.catalog import folder_of
    from latentrt.bundle.folder import MANIFEST, open_bundle

    folder = folder_of(value)
    if not (folder / MANIFEST).is_file():
        open_bundle(folder, verify=False)  # which says what is amiss
    return value


def check_files(*files: Path | None) -> None:
    """Raises RequestError for a file of prompts that is not there; `-` is stdin."""
    for file in files:
        if file is not None and f"{file}" != "-" and not file.is_file():
            raise RequestError(f"no prompts at {file}: expected a text file in UTF-8, one prompt a line")
