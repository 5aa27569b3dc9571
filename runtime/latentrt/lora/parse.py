"""A LoRA file and its scales as written on a command line: FILE[:SCALE[:TEXT]]."""

from __future__ import annotations

import re
from pathlib import Path

from latentrt.errors import RequestError
from latentrt.lora.files import Lora

# A file's name and the rest after its suffix, for messages about scales that are not numbers.
REST = re.compile(r"(?P<file>.+\.safetensors):(?P<rest>.*)", re.IGNORECASE | re.DOTALL)


def parse_lora(text: str) -> Lora:
    """Returns the file and its scales: one for all, or two, the UNet's and the text encoders'.

    A file's name may contain colons. Of all readings of `text`, the one with the longest name that exists is taken; if
    none exists, up to two numbers at the end are scales. Raises RequestError for a missing name, or a scale that is
    not a number.

    >>> parse_lora("C:/styles/ink.safetensors:0.8:0.5").text_scale
    0.5
    """
    readings = [Lora(Path(text))]
    for count in (1, 2):
        file, *scales = text.rsplit(":", count)
        numbers = [number for number in map(number_of, scales) if number is not None]
        if not file or len(numbers) < count:
            break
        readings.append(Lora(Path(file), *numbers))
    found = next((lora for lora in readings if exists(lora.file)), readings[-1])
    wrong = REST.fullmatch(text) if REST.fullmatch(str(found.file)) and not exists(found.file) else None
    if not text.strip() or wrong:
        got = f"the scale {wrong['rest']!r} in {text!r}" if wrong else f"{text!r}"
        file = wrong["file"] if wrong else "style.safetensors"
        raise RequestError(f"got {got}, expected FILE:SCALE or FILE:SCALE:TEXT with numbers, such as {file}:0.8")
    return found


def number_of(text: str) -> float | None:
    """A text as a number; None if it is not one."""
    try:
        return float(text)
    except ValueError:
        return None


def exists(file: Path) -> bool:
    """True if the file or folder exists; False for names that no file can have."""
    try:
        return file.exists()
    except (OSError, ValueError):
        return False
