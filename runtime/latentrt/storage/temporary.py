"""Temporary names, hidden beside the final ones, and what killed writers left under them."""

from __future__ import annotations

import re
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

from latentrt.storage.locks import locked

# A folder younger than this may belong to a writer that has no lock yet.
YOUNGEST_S = 60
# What stands between the start of a temporary name and its suffix, as a pattern; see `temporary_name`.
MARK = r"\.[0-9a-f]{16}"


def temporary_name(path: Path) -> Path:
    """An unused name beside `path`, with the same suffix."""
    return path.parent / f"{start_of(path)}.{secrets.token_hex(8)}{path.suffix}"


def start_of(path: Path) -> str:
    """How the temporary names of `path` begin. File systems allow 255 bytes for all of it."""
    return f".{path.stem[:40]}"


def remove_abandoned(path: Path) -> None:
    """Removes the temporary folders of `path` whose lock no process holds."""
    names = re.compile(re.escape(start_of(path)) + MARK + re.escape(path.suffix))
    latest = time.time() - YOUNGEST_S
    with suppress(OSError):  # no folder yet, or one that may not be listed
        for folder in path.parent.iterdir():
            if names.fullmatch(folder.name) and folder.is_dir() and folder.stat().st_mtime < latest:
                with locked(folder, wait=False) as abandoned:
                    if abandoned:
                        shutil.rmtree(folder, ignore_errors=True)
