"""The option --engine, whose help lists the table of engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from latentrt.cli.completing import one_of
from latentrt.engines.kinds import AUTO, NAMES


def engine_option(cls: type[click.Option] = click.Option) -> Callable[[Any], Any]:
    """The option --engine. A wrong name is refused by the loader, with the status of an engine that cannot be used."""
    return click.option(
        "--engine",
        cls=cls,
        default=AUTO,
        metavar="NAME",
        show_default=True,
        shell_complete=one_of(NAMES),
        help=f"Engine that runs the graphs: {', '.join(NAMES)}.",
    )
