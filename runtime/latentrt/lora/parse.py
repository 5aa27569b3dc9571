"""How a command line names a LoRA file and how much of it is added: FILE[:SCALE[:TEXT]]."""

from __future__ import annotations

import re
from pathlib import Path

from latentrt.errors import RequestError
from latentrt.lora.files import Lora

# What follows a file's suffix and is no number.
REST = re.compile(r"(?P<file>.+\.safetensors):(?P<rest>.*)", re.IGNORECASE | re.DOTALL)


def parse_lora(text: str) -> Lora:
    """Returns the file that `text` names, and its scales: the UNet's, and the text encoders' where two are given.

    A file's name may have colons. Of the ways to read `text`, the one whose file exists is meant, the longest name
    first; where none does, as many as two numbers at the end are scales. Raises RequestError for no file and for a
    scale that is no number.

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
    """The number that a text is; None for other texts."""
    try:
        return float(text)
    except ValueError:
        return None


def exists(file: Path) -> bool:
    """Whether there is such a file or folder; False for names that no file can have."""
    try:
        return file.exists()
    except (OSError, ValueError):
        return False
