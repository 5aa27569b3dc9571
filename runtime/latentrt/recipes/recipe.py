"""Recipes: generation data from pictures, with other tools' values converted to those of a request."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from latentrt.sampling.samplers.names import curve_of, found_as

SIZE = re.compile(r"\D*(\d{1,6})\D+(\d{1,6})\D*")
Reader = Callable[[Any], Any]


@dataclass(frozen=True)
class Recipe:
    """Generation data of a picture.

    tool: its name. settings: fields of `latentrt.Request`, and `model` and `loras`. other: settings without a matching
    field, unchanged.
    """

    tool: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    other: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The recipe as a dict, JSON-serializable."""
        return {"tool": self.tool, "settings": dict(self.settings), "other": dict(self.other)}


def read(entries: Mapping[str, Any], words: Mapping[str, tuple[str, Reader]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings in a tool's entries, and the entries left over.

    words: by the tool's name of an entry, our name, and a reader of its value. A reader returns None for a value that
    it cannot read, and a dict for several settings.
    """
    settings: dict[str, Any] = {}
    other: dict[str, Any] = {}
    for key, value in entries.items():
        name, reader = words.get(key, ("", nothing))
        found = reader(value)
        if found is None:
            other[key] = value
        elif isinstance(found, dict):
            settings |= {word: one for word, one in found.items() if one is not None}
        else:
            settings.setdefault(name, found)
    return settings, other


def nothing(_value: Any) -> None:
    """Reads nothing: returns None."""


def whole(value: Any) -> int | None:
    """A whole number, also from text."""
    found = real(value)
    return int(value if isinstance(value, int) else found) if found is not None and found == int(found) else None


def real(value: Any) -> float | None:
    """A finite number, also from text."""
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
    """The settings in a sampler's name: the sampler, and the curve and options that the name implies."""
    found = found_as(value) if isinstance(value, str) else None
    return {"sampler": found.sampler, "sigmas": found.sigmas, **found.options} if found else None


def curve(value: Any) -> str | None:
    """The `sigmas` setting for a curve's name in another tool."""
    return curve_of(value) if isinstance(value, str) else None


def model(value: Any) -> str | None:
    """A model's name, from a text or from a tool's description of the model."""
    if isinstance(value, Mapping):
        named = (text(value.get(key)) for key in ("name", "model_name", "base_model", "key"))
        return next((name for name in named if name), None)
    return text(value)


def json_of(written: str | None) -> Any:
    """The JSON value in a text; None for a text that is not JSON."""
    try:
        return None if written is None else json.loads(written)
    except (ValueError, RecursionError):
        return None


def mapping_of(written: str | None) -> dict[str, Any] | None:
    """The JSON object in a text; None for any other text."""
    found = json_of(written)
    return found if isinstance(found, dict) else None


def items(value: Any) -> Iterator[Any]:
    """The items of a list; nothing for any other value."""
    yield from value if isinstance(value, list) else ()
