"""Checks of a request's values: each returns the value, or raises RequestError that names it."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any, TypeGuard, TypeVar

from latentrt.errors import RequestError

Choice = TypeVar("Choice")

LONGEST = 80  # characters of a value in a message


def plain(value: Any) -> Any:
    """`value` with NumPy's and torch's scalars and arrays converted to Python's, inside lists and tuples too."""
    if hasattr(value, "tolist") and hasattr(value, "ndim"):
        return value.tolist()
    return type(value)(map(plain, value)) if type(value) in (list, tuple) else value


def shown(value: Any) -> str:
    """`value` as text for a message: shape and type of an array, long values cut."""
    if getattr(value, "ndim", 0):
        return f"an array of the shape {tuple(value.shape)}, {value.dtype}"
    try:
        text = repr(plain(value))
    except ValueError:  # a whole number of thousands of digits
        return "a number that is too long to show"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def or_default(value: Any, default: Any) -> Any:
    """`value`, or the default for None."""
    return default if value is None else value


def is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    """True for a list, a tuple or another sequence, but not for text."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def side(name: str, pixels: int, multiple: int) -> int:
    """`pixels`, if it is a positive multiple. Raises RequestError that names the nearest sizes otherwise."""
    pixels = whole(name, pixels, 1, None)
    if pixels % multiple:
        lower = pixels // multiple * multiple
        near = f"{lower} or {lower + multiple}" if lower else str(multiple)
        raise RequestError(f"{name}: got {pixels}, expected a multiple of {multiple}; the nearest are {near}")
    return pixels


def text(name: str, value: str) -> str:
    """`value`, if it is valid Unicode text; a byte on the command line that is not UTF-8 makes it invalid."""
    if not isinstance(value, str):
        raise RequestError(f"{name}: got {shown(value)}, expected text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{name}: got {shown(value)}, expected valid Unicode; check the terminal's encoding"
        ) from error
    return str(value)


def whole(name: str, value: int, lowest: int, highest: int | None) -> int:
    """`value` as an int, if it is a whole number in the range."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or value < lowest or (highest is not None and value > highest):
        limit = f"from {lowest} to {highest}" if highest is not None else f"of at least {lowest}"
        raise RequestError(f"{name}: got {shown(value)}, expected a whole number {limit}")
    return int(value)


def number(name: str, value: Any, lowest: float, highest: float) -> float:
    """`value` as a float, if it is a finite number in the range."""
    found = finite(value)
    if found is None:
        raise RequestError(f"{name}: got {shown(value)}, expected a finite number")
    if not lowest <= found <= highest:
        limit = f"from {lowest:g} to {highest:g}" if math.isfinite(highest) else f"of at least {lowest:g}"
        raise RequestError(f"{name}: got {shown(value)}, expected a number {limit}")
    return found


def finite(value: Any) -> float | None:
    """`value` as a float; None if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def flag(name: str, value: Any) -> bool:
    """`value`, if it is a bool."""
    if not isinstance(value, bool):
        raise RequestError(f"{name}: got {shown(value)}, expected True or False")
    return value


def choice(name: str, value: Any, choices: Sequence[Choice]) -> Choice:
    """`value`, if it is one of `choices`, which have one type."""
    if isinstance(value, bool) or not isinstance(value, type(choices[0])) or value not in choices:
        raise RequestError(f"{name}: got {shown(value)}, expected one of {', '.join(map(str, choices))}")
    return choices[choices.index(value)]
