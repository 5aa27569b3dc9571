"""Parsers of option values: sizes, lists of numbers, sigmas, control images."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from latentrt.request.control import Control


def size_of(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Width and height from "768x512"."""
    if value is None:
        return None
    width, _, height = value.lower().partition("x")
    if not (width.isascii() and width.isdecimal() and height.isascii() and height.isdecimal()):
        raise click.BadParameter(f"got {value!r}, expected a width and a height such as 768x512")
    return int(width), int(height)


def seed_of(_context: click.Context, _option: click.Parameter, value: int) -> int:
    """A seed; a random one for -1."""
    return secrets.randbits(32) if value == -1 else value


def numbers_of(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> float | tuple[float, ...] | None:
    """One number from "7.5", or several from "0.3,3"."""
    if value is None:
        return None
    try:
        numbers = tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"got {value!r}, expected numbers with commas between them") from None
    return numbers if len(numbers) > 1 else numbers[0]


def sigmas_of(context: click.Context, option: click.Parameter, value: str | None) -> str | tuple[float, ...] | None:
    """A curve's name, or the numbers from "14.6,7,3,1"."""
    if value is None or not any(character.isdigit() for character in value.partition(",")[0]):
        return value
    numbers = numbers_of(context, option, value)
    return numbers if isinstance(numbers, tuple) or numbers is None else (numbers,)


def pixels_of(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """The whole numbers from "0,0,64,0"."""
    try:
        return None if value is None else tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"got {value!r}, expected whole numbers with commas between them") from None


def calls_of(_context: click.Context, _option: click.Parameter, value: str | None) -> int | tuple[int, ...] | None:
    """One whole number from "3", or several from "0,3,6,9"."""
    if value is None:
        return None
    numbers = value.split(",")
    if not all(one.isascii() and one.isdecimal() for one in numbers):
        raise click.BadParameter(f"got {value!r}, expected a whole number, or several with commas between them")
    return int(value) if len(numbers) == 1 else tuple(map(int, numbers))


def class_of(_context: click.Context, _option: click.Parameter, value: str | None) -> int | str | None:
    """The number of a class, or its name."""
    return int(value) if value is not None and value.isascii() and value.isdecimal() else value


def controls_of(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> tuple[Control, ...]:
    """The controls from values such as "canny=edges.png:0.8:0:0.5"."""
    return tuple(control_of(value) for value in values)


def images_of(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """The files of images, one per option."""
    return values


def control_of(value: str) -> Control:
    """A control from NAME=IMG, NAME=IMG:SCALE or NAME=IMG:SCALE:START:END. Raises BadParameter for anything else.

    An image's name may contain colons. Of all readings, the one with the longest name that exists is taken; if none
    exists, all numbers at the end are the control's.
    """
    from latentrt.request.control import Control

    name, _, rest = value.partition("=")
    readings = [
        (image, numbers)
        for image, numbers in (without_numbers(rest, count) for count in (0, 1, 3))
        if image and numbers is not None
    ]
    existing = [reading for reading in readings if Path(reading[0]).is_file()]
    image, numbers = (existing or readings[::-1] or [("", [])])[0]
    if not name or not image or (not existing and has_rest(image)):
        raise click.BadParameter(
            f"got {value!r}, expected NAME=IMG, NAME=IMG:SCALE or NAME=IMG:SCALE:START:END, such as canny=edges.png:0.8"
        )
    return Control(name, image, *numbers)


def without_numbers(text: str, count: int) -> tuple[str, list[float] | None]:
    """A text without `count` numbers after colons at its end, and the numbers; None if it does not end in them."""
    first, *parts = text.rsplit(":", count)
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        return first, None
    return first, numbers if len(numbers) == count else None


def has_rest(image: str) -> bool:
    """True if text follows a file's suffix after a colon, as in "edges.png:strong"."""
    before, colon, _ = image.rpartition(":")
    return bool(colon) and "." in Path(before).name
