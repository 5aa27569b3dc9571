"""Files of prompts: one prompt a line, UTF-8; blank lines and lines that begin with # do not count."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

from latentrt.errors import RequestError

SHIPPED = Path(__file__).parent / "prompts.txt"
REMEDY = "name another file with --prompts, or leave that out"


def read_prompts(path: Path = SHIPPED) -> tuple[str, ...]:
    """Returns the prompts of a file in order, at least one; by default those that ship.

    Raises RequestError for a file that cannot be read, is not UTF-8, or holds no prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise RequestError(
            f"{path}: got the byte 0x{byte:02x} at {error.start}, expected text in UTF-8; save it as that, or {REMEDY}"
        ) from error
    except OSError as error:
        raise RequestError(f"{path}: got {error.strerror}, expected a file of prompts; {REMEDY}") from error
    prompts = tuple(line for line in map(str.strip, lines) if line and not line.startswith("#"))
    if not prompts:
        raise RequestError(f"{path}: got no prompt in {len(lines)} lines, expected one a line; write some, or {REMEDY}")
    return prompts


def for_images(prompts: Sequence[str], images: int) -> tuple[str, ...]:
    """Returns a prompt for each image: the first `images` of them, from the start again where they run out."""
    return tuple(islice(cycle(prompts), images))
