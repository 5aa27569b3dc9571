"""The options of commands that make one file with a bundle: where to write it, and the bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from latentrt.cli.paths import existing_bundle

PICTURE = "Picture to write: .png, .jpg, .webp."


def out_option(help: str = PICTURE) -> Callable[[Any], Any]:
    """The option --out of a command that does not name its file by itself."""
    return click.option(
        "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", required=True, help=help
    )


def bundle_option(help: str, callback: Callable[..., str] = existing_bundle) -> Callable[[Any], Any]:
    """The option --bundle of a command that the built-in model is not made for. callback: checks it."""
    return click.option("--bundle", metavar="MODEL", required=True, callback=callback, help=help)


def tile_option() -> Callable[[Any], Any]:
    """The option --tile of an autoencoder's commands."""
    return click.option(
        "--tile", type=int, metavar="PX", help="Side of tiles in pixels, for large pictures.  [default: none]"
    )
