"""From one request to another in frames, each a request of its own that makes its picture again.

Noise turns from seed to seed (see `variation`), prompts, guidance and strength change evenly.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import fields, replace
from typing import Any

import numpy as np

from latentrt.errors import RequestError
from latentrt.request.request import RANDOM, Request
from latentrt.validate import number, shown, whole

CHANGING = ("prompt", "seed", "guidance", "strength")
USED = ("variation_seed", "variation_strength", "blend", "blend_strength")
MOST_FRAMES = 100_000


def between(start: Request, end: Request, frames: int) -> list[Request]:
    """The requests of `frames` pictures from `start` to `end`, both included.

    They may differ in prompt, seed, guidance and strength; without a seed, one is drawn for all frames. Samplers that
    add noise take it from the first seed throughout. Raises RequestError for any other difference.
    """
    frames = whole("frames", frames, 2, MOST_FRAMES)
    for field in fields(Request):
        one, other = getattr(start, field.name), getattr(end, field.name)
        if field.name in USED and (one or other):
            raise RequestError(f"{field.name}: got {shown(one or other)}, which frames set themselves; leave it out")
        if field.name not in CHANGING and not same(one, other):
            raise RequestError(f"{field.name}: got {shown(one)} and {shown(other)}, expected the same for all frames")
    if start.batch != 1:
        raise RequestError(f"batch: got {start.batch} with frames, expected 1")
    first, last = (drawn(request.seed) for request in (start, end))
    turned = None if end.seed in (None, start.seed) else last
    start, end = replace(start, seed=first), replace(end, seed=turned)
    return [frame(start, end, index / (frames - 1)) for index in range(frames)]


def drawn(seed: int | None) -> int:
    """The seed, or one drawn from the system where none is asked for."""
    return secrets.randbits(32) if seed is None or seed == RANDOM else seed


def same(one: Any, other: Any) -> bool:
    """Whether two values of a field are equal; images and arrays among them."""
    try:
        return one is other or bool(np.all(one == other))
    except ValueError:  # arrays that differ in shape, or that are inside a control
        return False


def frame(start: Request, end: Request, share: float) -> Request:
    """The request of the frame that is so far on its way, 0 to 1."""
    changes: dict[str, Any] = {name: mixed(name, start, end, share) for name in ("guidance", "strength")}
    if end.prompt != start.prompt and share:
        changes |= {"blend": end.prompt, "blend_strength": share}
    if end.seed not in (None, start.seed) and share:
        changes |= {"variation_seed": end.seed, "variation_strength": share}
    return replace(start, **changes)


def mixed(name: str, start: Request, end: Request, share: float) -> Any:
    """A number between those of two requests; what is the same in both as it is."""
    one, other = getattr(start, name), getattr(end, name)
    if one == other:
        return one
    first, last = (number(name, value, -math.inf, math.inf) for value in (one, other))
    return (1 - share) * first + share * last
