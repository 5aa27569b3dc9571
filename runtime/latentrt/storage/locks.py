"""A folder's lock, among threads and processes; the system lets go of it when its holder dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Holds the folder's lock; gives whether it was got.

    wait: until another lets go of it, or OSError where nothing can be written; else gives False at once for either.
    """
    lock = FileLock(folder / LOCK, mode=0o600)
    try:
        lock.acquire(timeout=-1 if wait else 0, poll_interval=0.02)
    except (OSError, Timeout):  # Timeout is an OSError, in some versions
        if wait:
            raise
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
