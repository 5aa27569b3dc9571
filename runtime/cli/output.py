"""What commands share: JSON on stdout, a bar on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


def print_json(value: Any) -> None:
    """Prints `value` as JSON on stdout."""
    import json

    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[], None]]:
    """Gives a function that moves a bar on stderr by one; where stderr is no terminal, it does nothing."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda: progress.advance(task)
