"""Files of prompts: one prompt per line, UTF-8; blank lines and lines that begin with # are skipped.

Only LF and CR LF end a line: text from the web contains other characters that Python's splitlines takes for ends.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path

from latentrt.errors import RequestError

STDIN = Path("-")
REMEDY = "name another file with --prompts, or leave that out"


def read_prompts(path: Path) -> tuple[str, ...]:
    """Returns the prompts of a file in order, at least one. "-" is stdin.

    Raises RequestError for a file that cannot be read, is not UTF-8, or holds no prompt.
    """
    try:
        *lines, last = bytes_of(path).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise RequestError(
            f"{path}: got the byte 0x{byte:02x} at {error.start}, expected text in UTF-8; save it as UTF-8, or {REMEDY}"
        ) from error
    except OSError as error:
        raise RequestError(f"{path}: got {error.strerror or error}, expected a file of prompts; {REMEDY}") from error
    lines += [last] if last else []
    prompts = tuple(line for line in map(str.strip, lines) if line and not line.startswith("#"))
    if not prompts:
        raise RequestError(f"{path}: got no prompt in {len(lines)} lines, expected one per line; add one, or {REMEDY}")
    return prompts


def bytes_of(path: Path) -> bytes:
    """Content of a file, or of stdin. Raises OSError."""
    if path != STDIN:
        return path.read_bytes()
    if sys.stdin is None or not hasattr(sys.stdin, "buffer"):
        raise OSError(errno.EBADF, "a stdin that is closed")
    return sys.stdin.buffer.read()
