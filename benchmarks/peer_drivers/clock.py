"""What the drivers share: the times of a run, the ends of steps as the peer's own callback has them, as a line of JSON.

Drivers are run by the peers' interpreters, which have no latentrt: nothing here but the standard library.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

PROMPT = "a red bicycle leaning against a white wall"
GUIDANCE, SIDE = 7.5, 512

# Draws one picture in so many steps, calling the function at the end of each.
Draw = Callable[[int, Callable[[], None]], None]


def report(draw: Draw, steps: list[int]) -> None:
    """Draws a picture for each number of steps; prints when each began and ended, and its steps, in seconds.

    The clock is the system's monotonic one, which is the same in every process.
    """
    pictures = []
    for count in steps:
        ends: list[float] = []
        start = time.monotonic()
        draw(count, lambda ends=ends: ends.append(time.monotonic()))
        pictures.append({"start": start, "steps": ends, "end": time.monotonic()})
    print(json.dumps(pictures), flush=True)


def asked() -> tuple[str, str, list[int]]:
    """The model, its variant and the numbers of steps on the command line."""
    model, variant, *steps = sys.argv[1:]
    return model, variant, [int(count) for count in steps]
