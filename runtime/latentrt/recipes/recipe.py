"""Recipes: a picture's generation data, with values of other tools converted to those of a request."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from latentrt.sampling.samplers.names import curve_of, found_as

SIZE = re.compile(r"\D*(\d{1,6})\D+(\d{1,6})\D*")
Reading = Callable[[Any], Any]


@dataclass(frozen=True)
class Recipe:
    """Generation data of a picture: the tool, and its settings.

    settings: in the words of `latentrt.Request`, and `model` and `loras`. other: what has no such word, as it is there.
    """

    tool: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    other: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"tool": self.tool, "settings": dict(self.settings), "other": dict(self.other)}


def read(entries: Mapping[str, Any], words: Mapping[str, tuple[str, Reading]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that entries say by a table, from a tool's name to ours and a reading, and the entries left over.

    A reading gives None for what it cannot read, and a mapping for several settings at once.
    """
    settings: dict[str, Any] = {}
    other: dict[str, Any] = {}
    for key, value in entries.items():
        name, reading = words.get(key, ("", nothing))
        found = reading(value)
        if found is None:
            other[key] = value
        elif isinstance(found, dict):
            settings |= {word: one for word, one in found.items() if one is not None}
        else:
            settings.setdefault(name, found)
    return settings, other


def nothing(_value: Any) -> None:
    """No reading."""


def whole(value: Any) -> int | None:
    """A whole number, also written as text."""
    found = real(value)
    return int(value if isinstance(value, int) else found) if found is not None and found == int(found) else None


def real(value: Any) -> float | None:
    """A finite number, also written as text."""
    try:
        found = None if isinstance(value, bool) or not isinstance(value, (int, float, str)) else float(value)
    except (ValueError, OverflowError):
        return None
    return found if found is not None and math.isfinite(found) else None


def text(value: Any) -> str | None:
    """A text that is not empty."""
    return value if isinstance(value, str) and value else None


def size(value: Any) -> dict[str, int] | None:
    """Width and height of "512x768", "(512, 768)" or [512, 768]."""
    written = "x".join(map(str, value)) if isinstance(value, (list, tuple)) else value
    found = SIZE.fullmatch(written) if isinstance(written, str) else None
    return {"width": int(found[1]), "height": int(found[2])} if found else None


def sampler(value: Any) -> dict[str, Any] | None:
    """The sampler of a name, and the curve and the options that it says besides."""
    found = found_as(value) if isinstance(value, str) else None
    return {"sampler": found.sampler, "sigmas": found.sigmas, **found.options} if found else None


def curve(value: Any) -> str | None:
    """The curve of a name."""
    return curve_of(value) if isinstance(value, str) else None


def model(value: Any) -> str | None:
    """A model's name, of a text or of what a tool says of it."""
    if isinstance(value, Mapping):
        named = (text(value.get(key)) for key in ("name", "model_name", "base_model", "key"))
        return next((name for name in named if name), None)
    return text(value)


def json_of(written: str | None) -> Any:
    """JSON value of a text; None for a text that is no JSON."""
    try:
        return None if written is None else json.loads(written)
    except (ValueError, RecursionError):
        return None


def mapping_of(written: str | None) -> dict[str, Any] | None:
    """The JSON object that a text is; None for what is none."""
    found = json_of(written)
    return found if isinstance(found, dict) else None


def items(value: Any) -> Iterator[Any]:
    """The items of a list; none of anything else."""
    yield from value if isinstance(value, list) else ()
