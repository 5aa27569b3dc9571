"""Files and folders that appear whole or not at all: written under a temporary name, synced, renamed."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latentrt.errors import OutputError

WINDOWS = os.name == "nt"


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path` to write to; it becomes `path` when the block ends well, else it is removed.

    A file that stood there is replaced in one step.
    """
    temporary = temporary_name(path)
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a file as UTF-8, whole or not at all. Raises OutputError when it cannot be written there."""
    try:
        with new_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"{path}: cannot be written ({reason}); name a file in a folder that exists") from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Gives a temporary folder beside `path` to fill; it becomes `path` when the block ends well, else it is removed.

    Raises OutputError when `path` exists already, before the block runs and again before the rename, and when no folder
    can be made there.
    """
    refuse_existing(path)
    temporary = temporary_name(path)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be made ({error.strerror}); name another folder") from error
    try:
        yield temporary
        put_in_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(folder: Path, path: Path) -> None:
    """Syncs a folder that is done and renames it to `path`, on the same disk. Raises OutputError when that exists."""
    for item in [*folder.rglob("*"), folder]:
        sync(item)
    refuse_existing(path)
    folder.rename(path)
    sync(path.parent)


def refuse_existing(path: Path) -> None:
    """Raises OutputError if anything, even a dangling link, has that name."""
    if os.path.lexists(path):
        raise OutputError(f"{path} exists; name another, or remove it first")


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path` that nothing has, with its suffix."""
    return path.parent / f".{path.stem[:40]}.{secrets.token_hex(8)}{path.suffix}"


def sync(path: Path) -> None:
    """Has the system put a file or folder on the disk. Windows opens no folder, and syncs what is open to write."""
    if WINDOWS and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
