"""The option --memory-budget: given in GB, handed to the command in bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def memory_option(cls: type[click.Option] = click.Option) -> Callable[[Any], Any]:
    """The option --memory-budget; the command gets whole bytes, or None for no limit."""
    return click.option(
        "--memory-budget",
        cls=cls,
        type=click.FloatRange(min=0, min_open=True),
        metavar="GB",
        callback=bytes_of,
        help="Limit of the process's memory on a CPU, in GB.  [default: none]",
    )


def bytes_of(_context: click.Context, _option: click.Parameter, gigabytes: float | None) -> int | None:
    """Whole bytes of a number of GB."""
    return None if gigabytes is None else int(gigabytes * 1e9)
