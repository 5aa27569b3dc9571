"""Completion of options' values in a shell. Names of commands and options are completed by click itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click


def one_of(values: Iterable[str]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """A completion: those of the values that begin with what was typed."""
    known = tuple(values)
    return lambda context, parameter, typed: [value for value in known if value.startswith(typed)]
