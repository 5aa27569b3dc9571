"""The prompts that ship for calibration, and how prompts are dealt out to images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

SHIPPED = Path(__file__).parent / "prompts.txt"


def for_images(prompts: Sequence[str], images: int) -> tuple[str, ...]:
    """Returns a prompt for each image: the first `images` of them, from the start again where they run out."""
    return tuple(islice(cycle(prompts), images))
