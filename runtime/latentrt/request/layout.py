"""Layouts: boxes and their classes, as the tokens of layout-to-image models, Rombach et al. (2022).

The tokens are those of taming-transformers' `ObjectsBoundingBoxConditionalBuilder`: per object its class, its top left
and its bottom right corner; then the corners of the crop.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentrt.bundle.manifest import Layout
from latentrt.errors import RequestError
from latentrt.tensors import Array
from latentrt.validate import finite, is_list, shown, whole

WHOLE = (0.0, 0.0, 1.0, 1.0)
EXAMPLE = '[{"label": 15, "box": [0.1, 0.2, 0.5, 0.6]}]'


@dataclass(frozen=True)
class Box:
    """One object. label: the number of its class. Corners are shares of the picture, from 0 to 1."""

    label: int
    left: float
    top: float
    right: float
    bottom: float

    def record(self) -> dict[str, Any]:
        """The object in a request that makes this again."""
        return {"label": self.label, "box": [self.left, self.top, self.right - self.left, self.bottom - self.top]}


def layout_of(given: Any, layout: Layout) -> tuple[Box, ...]:
    """The boxes of a request: a list, or the path of its JSON file. Raises RequestError."""
    entries = from_file(given) if isinstance(given, (str, os.PathLike)) else given
    if not is_list(entries):
        raise RequestError(f"layout: got {shown(entries)}, expected a list of boxes such as {EXAMPLE}, or its file")
    if len(entries) > layout.objects:
        raise RequestError(f"layout: got {len(entries)} boxes, expected at most {layout.objects}")
    return tuple(box_of(entry, place, layout) for place, entry in enumerate(entries))


def from_file(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file. Raises RequestError."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"layout: {path} is not a readable JSON file ({error})") from error


def box_of(entry: Any, place: int, layout: Layout) -> Box:
    """One box of a list. Raises RequestError that names its place."""
    name = f"layout[{place}]"
    if not isinstance(entry, dict) or entry.keys() != {"label", "box"}:
        raise RequestError(f"{name}: got {shown(entry)}, expected a label and a box such as {EXAMPLE}")
    label = whole(f"{name}.label", entry["label"], 0, layout.tokens - 2)
    numbers = [finite(one) for one in entry["box"]] if is_list(entry["box"]) else []
    if len(numbers) != 4 or None in numbers:
        raise RequestError(f"{name}.box: got {shown(entry['box'])}, expected left, top, width and height from 0 to 1")
    left, top, width, height = (one or 0.0 for one in numbers)
    inside = left >= 0 and top >= 0 and left + width <= 1 and top + height <= 1
    if not inside or width <= 0 or height <= 0:
        raise RequestError(
            f"{name}.box: got {shown(entry['box'])}, which is not inside the picture; expected left, top, width and "
            "height as shares of it, from 0 to 1"
        )
    return Box(label, left, top, left + width, top + height)


def layout_tokens(boxes: Sequence[Box], layout: Layout) -> Array:
    """The tokens of boxes, int64 (3 * objects + 2); the last token of the vocabulary thrice for each missing one."""
    empty = [layout.tokens - 1] * 3
    objects = [
        [box.label, corner(box.left, box.top, layout.tokens), corner(box.right, box.bottom, layout.tokens)]
        for box in boxes
    ]
    objects += [empty] * (layout.objects - len(boxes))
    left, top, right, bottom = WHOLE
    crop = [corner(left, top, layout.tokens), corner(right, bottom, layout.tokens)]
    return np.array([*(token for one in objects for token in one), *crop], np.int64)


def corner(x: float, y: float, tokens: int) -> int:
    """The token of a corner: its place on the largest square grid that the vocabulary has tokens for."""
    side = math.isqrt(tokens)
    return round(y * (side - 1)) * side + round(x * (side - 1))
