"""Options of the command line from the rows of a request, and a help that groups them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import click

from latentrt.cli import parsing
from latentrt.cli.completing import one_of
from latentrt.cli.grouped import GroupedCommand
from latentrt.request.request import Request
from latentrt.request.rows import Choice, Flag, Group, Number, Row, Text, Whole, row_of

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
HEADINGS: Mapping[str, str] = {
    "first": "Most used",
    "prompt": "Prompt",
    "size": "Size",
    "sampling": "Sampling",
    "images": "Images",
    "control": "Control",
    "output": "Output",
}
TYPES: Mapping[type, Any] = {Whole: int, Number: float, Text: str}
# Fields whose option is a number, though their sampler checks it.
SAMPLERS_OWN: Mapping[str, Any] = {"eta": float, "gamma": float, "order": int}
PARSERS: Mapping[str, Callable[..., Any]] = {
    "size": parsing.size_of,
    "numbers": parsing.numbers_of,
    "sigmas": parsing.sigmas_of,
    "pixels": parsing.pixels_of,
    "controls": parsing.controls_of,
    "images": parsing.images_of,
    "calls": parsing.calls_of,
    "class": parsing.class_of,
}
# The fields that the command puts first, before its own --size and after it.
BEFORE_SIZE = ("negative", "steps", "guidance", "seed")
AFTER_SIZE = ("sampler", "batch", "init", "strength", "mask", "controls")
# The fields of step caching, for commands that take few.
STEP_CACHE = ("cache", "cache_of", "cache_order")
NAMED = {one.name: one for one in fields(Request) if row_of(one).option is not None}


class GroupedOption(click.Option):
    """An option that knows its heading in the help."""

    heading = "output"


class FirstOption(GroupedOption):
    """An option among those that everybody uses."""

    heading = "first"


class RequestCommand(GroupedCommand):
    """A command whose help has its options under the headings that they know."""

    def __init__(self, *args: Any, params: list[click.Parameter], **kwargs: Any) -> None:
        options = [one for one in params if isinstance(one, GroupedOption)]
        groups = {
            title: [str(one.name) for one in options if one.heading == heading] for heading, title in HEADINGS.items()
        }
        super().__init__(*args, params=params, groups=groups, rest=HEADINGS[GroupedOption.heading], **kwargs)


def grouped(heading: Group | str, *names: str, **attributes: Any) -> Callable[[Decorated], Decorated]:
    """An option under a heading."""
    kind = type(f"{heading.title()}Option", (GroupedOption,), {"heading": heading})
    return click.option(*names, cls=kind, **attributes)


def first(*names: str, **attributes: Any) -> Callable[[Decorated], Decorated]:
    """An option among those that everybody uses."""
    return grouped("first", *names, **attributes)


def request_options(first: Sequence[str] = ()) -> Callable[[Decorated], Decorated]:
    """The options of these fields, among those that everybody uses; without names, of all others by heading."""

    def decorate(command: Decorated) -> Decorated:
        names = first or [name for name in NAMED if name not in (*BEFORE_SIZE, *AFTER_SIZE)]
        for name in reversed(names):
            command = option_of(name, "first" if first else row_of(NAMED[name]).group)(command)
        return command

    return decorate


def option_of(name: str, heading: str) -> Callable[[Decorated], Decorated]:
    """The option of a field."""
    field, one = NAMED[name], row_of(NAMED[name])
    flag, default = f"--{one.option or name.replace('_', '-')}", field.default
    attributes: dict[str, Any] = {"help": help_of(one, default), "metavar": one.metavar or None}
    if isinstance(one.kind, Choice):
        attributes["shell_complete"] = one_of(one.kind.values)
    if isinstance(one.kind, Flag):
        return grouped(heading, flag, is_flag=True, help=one.help)
    if one.parse:
        attributes |= {"callback": PARSERS[one.parse], "multiple": one.parse in ("controls", "images")}
    else:
        attributes |= {"type": SAMPLERS_OWN.get(name) or TYPES.get(type(one.kind), str), "default": default}
    return grouped(heading, flag, name, **attributes)


def help_of(one: Row, default: Any) -> str:
    """A field's help, with its default."""
    usual = one.usual or ("" if default in (None, MISSING, "", ()) else str(default))
    return f"{one.help}  [default: {usual}]" if usual else one.help
