"""Shared by the drivers: times of a run as a line of JSON; ends of steps are from the package's own callback.

Drivers run in environments without latentrt, so this module uses only the standard library.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

PROMPT = "a red bicycle leaning against a white wall"
SIDE = 512

# Draws one picture in the given number of steps; calls the function at the end of each.
Draw = Callable[[int, Callable[[], None]], None]


def report(draw: Draw, steps: list[int]) -> None:
    """Draws a picture for each number of steps; prints its start, its end and the ends of its steps, in seconds.

    The clock is the system's monotonic one, which is the same in every process.
    """
    pictures = []
    for count in steps:
        ends: list[float] = []
        start = time.monotonic()
        draw(count, lambda ends=ends: ends.append(time.monotonic()))
        pictures.append({"start": start, "steps": ends, "end": time.monotonic()})
    print(json.dumps(pictures), flush=True)


def asked() -> tuple[str, str, float, list[int]]:
    """The model, its variant, the guidance (1 is none) and the numbers of steps, from the command line."""
    model, variant, guidance, *steps = sys.argv[1:]
    return model, variant, float(guidance), [int(count) for count in steps]
