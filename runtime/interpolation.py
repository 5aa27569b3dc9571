"""From one request to another in frames, each a request of its own that makes its picture again.

Noise turns from seed to seed (see `variation`), prompts, guidance and strength change evenly.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import fields, replace
from typing import Any

from latentrt.checks import number, whole
from latentrt.errors import RequestError
from latentrt.request import Request

CHANGING = ("prompt", "seed", "guidance", "strength")
USED = ("variation_seed", "variation_strength", "blend", "blend_strength")
MOST_FRAMES = 100_000


def between(start: Request, end: Request, frames: int) -> list[Request]:
    """The requests of `frames` pictures from `start` to `end`, both included.

    They may differ in prompt, seed, guidance and strength; without a seed, one is drawn for all frames. Samplers that
    add noise take it from the first seed throughout. Raises RequestError for any other difference.
    """
    whole("frames", frames, 2, MOST_FRAMES)
    for field in fields(Request):
        one, other = getattr(start, field.name), getattr(end, field.name)
        if field.name in USED and (one or other):
            raise RequestError(f"{field.name}: got {one or other!r}, which frames set themselves; leave it out")
        if field.name not in CHANGING and one is not other and one != other:
            raise RequestError(f"{field.name}: got {one!r} and {other!r}, expected the same for all frames")
    if start.batch != 1:
        raise RequestError(f"batch: got {start.batch} with frames, expected 1")
    seed = secrets.randbits(32) if start.seed is None else start.seed
    return [frame(replace(start, seed=seed), end, index / (frames - 1)) for index in range(frames)]


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
