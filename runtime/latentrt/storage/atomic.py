"""Atomic writes: files and folders appear whole or not at all (written under a temporary name, synced, renamed)."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latentrt.errors import LatentError, OutputError
from latentrt.storage.locks import LOCK, locked
from latentrt.storage.temporary import remove_abandoned, temporary_name

# What to do about a system error; any other error means a path that cannot exist.
REMEDIES = {
    errno.ENOSPC: "free space on that disk, or name a place on another",
    errno.EDQUOT: "free some of your quota, or name a place on another disk",
    errno.EFBIG: "allow larger files (`ulimit -f`), or name a place on a disk that takes them",
    errno.EROFS: "that disk is read-only, name a place on another",
    errno.EACCES: "name a place that you may write to",
    errno.EPERM: "name a place that you may write to",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.EIO: "the disk fails, name a place on another",
}
# Errors that only writing can cause.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
PROBE_BYTES = 1 << 16

WINDOWS = os.name == "nt"


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` to write to: renamed to `path` if the block succeeds, else removed.

    An existing file at `path` is replaced in one step.
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


@contextmanager
def output_file(path: Path) -> Iterator[Path]:
    """As `new_file`, for a file that the user named. Raises OutputError if it cannot be written."""
    try:
        with new_file(path) as temporary:
            yield temporary
    except OutputError:  # a subclass of OSError
        raise
    except OSError as error:
        raise cannot_write(path, error) from error


def check_writable(path: Path, *, option: str = "") -> None:
    """Raises OutputError unless a file can be made at `path`, before the work that it is for.

    option: the option that names the path, for the message.
    """
    if not path.parent.is_dir():
        where = f"{option or path}: there is no folder {path.parent}"
        raise OutputError(f"{where}; make it with `mkdir -p {path.parent}`")
    temporary = temporary_name(path)
    try:
        temporary.touch(exist_ok=False)
        temporary.unlink()
    except OSError as error:
        raise cannot_write(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Writes a file as UTF-8, whole or not at all. Raises OutputError if it cannot be written."""
    with output_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path` to fill: renamed to `path` if the block succeeds, else removed.

    What killed writers of the same `path` have left is removed. Raises OutputError if `path` exists (checked before the
    block and again before the rename), if the folder cannot be made, and if the disk fails while the block writes.
    """
    refuse_existing(path)
    remove_abandoned(path)
    temporary = temporary_name(path)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise cannot_write(path, error, done="made") from error
    try:
        with filling(temporary, path):
            with locked(temporary, wait=False):
                yield temporary
            (temporary / LOCK).unlink(missing_ok=True)
            put_in_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def filling(folder: Path, path: Path) -> Iterator[None]:
    """Turns disk errors in the block, which fills `folder`, into an OutputError that names `path`.

    Libraries raise their own errors for a full disk, with or without the system's message in them.
    """
    try:
        yield
    except OutputError:
        raise
    except Exception as error:
        fault = disk_fault(error, folder)
        if fault is None:
            raise
        raise cannot_write(path, fault) from error


def disk_fault(error: BaseException, folder: Path) -> OSError | None:
    """The disk error that caused `error` while `folder` was filled; None if there was none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and (cause.errno in FULL or within(cause, folder)):
            return cause
        for code in FULL:
            if os.strerror(code) in str(cause):
                return OSError(code, os.strerror(code))
        cause = cause.__cause__ or cause.__context__
    return None if isinstance(error, LatentError) else fault_now(folder)


def within(error: OSError, folder: Path) -> bool:
    """True for a system error about a file in `folder`, but False for a missing file."""
    name = error.filename
    return isinstance(name, (str, Path)) and folder in Path(name).parents and error.errno != errno.ENOENT


def fault_now(folder: Path) -> OSError | None:
    """The error of a small test write into `folder`, for a library that does not name its error; None if it works."""
    limit = largest_file_bytes()
    try:
        if limit is not None and any(item.stat().st_size >= limit for item in folder.rglob("*")):
            return OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        probe = folder / secrets.token_hex(8)
        with probe.open("wb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    probe.unlink()
    return None


def largest_file_bytes() -> int | None:
    """Largest file in bytes that this process may write; None if there is no limit or it is unknown."""
    try:
        import resource
    except ImportError:  # on Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if limit == resource.RLIM_INFINITY else limit


def cannot_write(path: Path, error: OSError, *, done: str = "written") -> OutputError:
    """The error for `path` with what to do about it. done: "written" for files, "made" for folders."""
    usual = "name another folder" if done == "made" else "name a file in a folder that exists"
    remedy = REMEDIES.get(error.errno or 0, usual)
    return OutputError(f"{path}: cannot be {done} ({error.strerror or error}); {remedy}")


def put_in_place(folder: Path, path: Path) -> None:
    """Syncs a finished folder and renames it to `path`, on the same disk. Raises OutputError if `path` exists."""
    for item in [*folder.rglob("*"), folder]:
        sync(item)
    refuse_existing(path)
    folder.rename(path)
    sync(path.parent)


def refuse_existing(path: Path) -> None:
    """Raises OutputError if `path` exists, even as a dangling link."""
    if os.path.lexists(path):
        raise OutputError(f"{path} exists; name another, or remove it first")


def sync(path: Path) -> None:
    """Flushes a file or folder to disk. Windows cannot open folders, and syncs only files open for writing."""
    if WINDOWS and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
