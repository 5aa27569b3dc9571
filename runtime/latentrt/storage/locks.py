"""Locks on folders, between threads and processes; the system releases the lock of a process that dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Holds the folder's lock during the block; yields True if it was acquired.

    wait: wait until it is free, and raise OSError if the folder cannot be written, NotImplementedError if its file
    system has no locks; without, yield False in all these cases.
    """
    from filelock import FileLock, Timeout  # here: it takes 15 ms, and a picture needs no lock

    lock = FileLock(folder / LOCK, mode=0o600)
    try:
        lock.acquire(timeout=-1 if wait else 0, poll_interval=0.02)
    except (OSError, NotImplementedError, Timeout):  # file systems without locks, by filelock's version
        if wait:
            raise
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
