"""Options that name a file and how much of it: FILE:SCALE."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def lora_option(help: str) -> Callable[[Any], Any]:
    """The option --lora, whose values the command gets as `loras`."""
    return click.option(
        "--lora", "loras", callback=scaled_files, multiple=True, metavar="FILE:SCALE", help=f"{help} May be repeated."
    )


def scaled_files(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> list[tuple[Path, float]]:
    """The file and the scale of each FILE:SCALE, of FILE alone a scale of 1."""
    return [scaled_file(value) for value in values]


def scaled_file(value: str) -> tuple[Path, float]:
    """The file and the scale that `value` names. Raises BadParameter for a scale that is no number."""
    file, colon, scale = value.rpartition(":")
    if not colon:
        return Path(value), 1.0
    try:
        return Path(file), float(scale)
    except ValueError as error:
        raise click.BadParameter(
            f"got the scale {scale!r} in {value!r}, expected FILE:SCALE with a number, such as {file}:0.8"
        ) from error
