"""Rows of the request: each field's bounds, help, option of the command line, and use, stated once beside the field.

The command line, the checks, the hand-over from a base to a refiner and the reference of options are made from these.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal

from latentrt.errors import RequestError
from latentrt.validate import choice, flag, number, or_default, shown, text, whole

Group = Literal["prompt", "size", "sampling", "images", "control", "output", "python"]
Part = Literal["both", "base", "refiner"]


@dataclass(frozen=True)
class Text:
    """Text that can be encoded as UTF-8."""

    def check(self, name: str, value: Any, highest: float | None = None) -> Any:
        """The value. Raises RequestError for another kind."""
        return text(name, value)


@dataclass(frozen=True)
class Flag:
    """True or False."""

    def check(self, name: str, value: Any, highest: float | None = None) -> Any:
        """The value. Raises RequestError for another kind."""
        return flag(name, value)


@dataclass(frozen=True)
class Whole:
    """A whole number in a range."""

    lowest: int
    highest: int | None = None

    def check(self, name: str, value: Any, highest: float | None = None) -> Any:
        """The value as an int. Raises RequestError for another kind, or one outside the range."""
        return whole(name, value, self.lowest, self.highest if highest is None else int(highest))


@dataclass(frozen=True)
class Number:
    """A finite number in a range."""

    lowest: float = -math.inf
    highest: float = math.inf

    def check(self, name: str, value: Any, highest: float | None = None) -> Any:
        """The value as a float. Raises RequestError for another kind, or one outside the range."""
        return number(name, value, self.lowest, self.highest if highest is None else highest)


@dataclass(frozen=True)
class Choice:
    """One of some words."""

    values: tuple[str, ...]

    def check(self, name: str, value: Any, highest: float | None = None) -> Any:
        """The word. Raises RequestError, which lists them, for another."""
        return choice(name, value, self.values)


@dataclass(frozen=True)
class Other:
    """A kind that the field's own module checks: an image, a list, an array."""

    def check(self, name: str, value: Any, highest: float | None = None) -> Any:
        """The value as it is."""
        return value


Kind = Text | Flag | Whole | Number | Choice | Other


@dataclass(frozen=True)
class Row:
    """One field of the request.

    help: one line. group: the heading of its option in the help. kind: what its value may be. option: the option's
    name without dashes, where it is not the field's; "" for the field's; None for a field without an option. metavar:
    what stands for the value in the help. parse: how the command line reads it, a name in `latentrt.cli.parsing`.
    usual: the default, in words, where None stands for one. only_with: the field without which this one has no use.
    part: where a base hands over to a refiner, which of the two the field is for. as_given: whether it may hold an
    image or an array, which is left as it is.
    """

    help: str
    group: Group
    kind: Kind
    option: str | None = ""
    metavar: str = ""
    parse: str = ""
    usual: str = ""
    only_with: str = ""
    part: Part = "both"
    as_given: bool = False


def row(default: Any, help: str, group: Group, kind: Kind, **more: Any) -> Any:
    """A field of a dataclass with its row. default: ... for a field that has to be given."""
    given = MISSING if default is ... else default
    return field(default=given, metadata={"row": Row(help, group, kind, **more)})


def pair(help: str, lowest: int, metavar: str, usual: str, part: Part = "both") -> Any:
    """A field of two whole numbers, with its row."""
    return row(None, help, "size", Whole(lowest, 1 << 16), metavar=metavar, parse="size", usual=usual, part=part)


def row_of(one: Field[Any]) -> Row:
    """The row of a field."""
    found: Row = one.metadata["row"]
    return found


def rows_of(kind: type[Any]) -> dict[str, Row]:
    """Every row by the name of its field, in order."""
    return {one.name: row_of(one) for one in fields(kind)}


def checked(request: Any, name: str, default: Any = None, highest: float | None = None) -> Any:
    """A field's value, or the default for None, once its row's kind allows it. highest: the model's own bound.

    Raises RequestError that names the field, the value and what is expected.
    """
    value = getattr(request, name)
    one: Row = type(request).__dataclass_fields__[name].metadata["row"]
    return one.kind.check(name, or_default(value, default), highest)


def changed(request: Any, name: str) -> bool:
    """Whether a field is not at its default."""
    value, default = getattr(request, name), type(request).__dataclass_fields__[name].default
    # An image may be an array, which is equal to nothing.
    return value is not default and (default is None or bool(value != default))


def refuse_without(needed: str, request: Any) -> None:
    """Raises RequestError for the first field that is given, and has no use without another one that is not."""
    for name in depending_on(needed, rows_of(type(request))):
        if changed(request, name):
            got = shown(getattr(request, name))
            raise RequestError(f"{name}: got {got} without {needed}; give {needed} too, or leave {name} out")


def depending_on(needed: str, rows: dict[str, Row]) -> Iterator[str]:
    """The fields that have no use without `needed`, those without use except beside one of these included."""
    for name, one in rows.items():
        if one.only_with == needed:
            yield name
            yield from depending_on(name, rows)


def parts_of(kind: type[Any], part: Part) -> list[str]:
    """The names of the fields for one part of a run that a base hands over to a refiner."""
    return [name for name, one in rows_of(kind).items() if one.part == part]
