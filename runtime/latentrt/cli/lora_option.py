"""The option --lora, a file and its scales: FILE[:SCALE[:TEXT]]."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from latentrt.errors import RequestError

if TYPE_CHECKING:
    from latentrt.lora.files import Lora


def lora_option(help: str, cls: type[click.Option] = click.Option) -> Callable[[Any], Any]:
    """The option --lora; the command gets its values as `loras`."""
    return click.option(
        "--lora",
        "loras",
        cls=cls,
        callback=loras_of,
        multiple=True,
        metavar="FILE[:SCALE[:TEXT]]",
        help=f"{help} May be repeated.",
    )


def loras_of(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> list[Lora]:
    """The files and their scales. Raises BadParameter for an invalid scale, RequestError for a file named twice."""
    if not values:
        return []
    from latentrt.lora.parse import parse_lora

    try:
        loras = [parse_lora(value) for value in values]
    except RequestError as error:
        raise click.BadParameter(str(error)) from error
    if len({lora.file for lora in loras}) < len(loras):
        raise RequestError(f"--lora: got {', '.join(str(lora.file) for lora in loras)}, expected each file once")
    return loras
