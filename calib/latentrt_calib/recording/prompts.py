"""Calibration prompts that ship, and the prompt of each image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

SHIPPED = Path(__file__).parent / "prompts.txt"


def for_images(prompts: Sequence[str], images: int) -> tuple[str, ...]:
    """Returns one prompt per image; prompts repeat from the start if there are fewer than images."""
    return tuple(islice(cycle(prompts), images))
