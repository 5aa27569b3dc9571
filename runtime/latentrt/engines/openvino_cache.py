"""Cache of graphs that OpenVINO compiled: one folder per compilation, with a signed record of sizes and hashes.

OpenVINO checks only the header of a cached file, so a flipped bit would give another picture. Files that differ from
the record, or that this user did not sign, are removed before OpenVINO reads the folder.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from latentrt.bundle.folder import record_files, sha256_of
from latentrt.bundle.manifest import FileRecord
from latentrt.engines.artifacts import read_signed, signed
from latentrt.errors import BundleError, EngineError
from latentrt.storage.atomic import new_file
from latentrt.storage.locks import LOCK, locked
from latentrt.storage.user_dirs import owned_by_user

log = logging.getLogger(__name__)

RECORD = "compiled.json"


@dataclass(frozen=True)
class Compiled:
    """The record of a folder. folder: its name, the key of the compilation. files: sizes and hashes by name."""

    folder: str
    files: Mapping[str, FileRecord]


@contextmanager
def cache_settings(folder: Path) -> Iterator[dict[str, str]]:
    """Yields the settings that make OpenVINO read and write compiled graphs in the folder during the block.

    One thread or process is in the block at a time; later ones find the compiled graph. Yields no settings if the
    folder cannot be written or belongs to another user.
    """
    with ExitStack() as stack:
        try:
            for path in (folder.parent, folder):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not owned_by_user(folder):
                raise PermissionError(0, "it belongs to another user")
            stack.enter_context(locked(folder))
            known = intact_files(folder)
        except OSError as error:
            warn_once(folder.parents[1], error.strerror or str(error))
            yield {}
            return
        yield {"CACHE_DIR": str(folder)}
        record_new(folder, known)


@cache
def warn_once(folder: Path, reason: str) -> None:
    """Logs that compiled graphs are not cached, once for all components."""
    log.warning("%s: compiled OpenVINO graphs cannot be cached there: %s", folder, reason)


def intact_files(folder: Path) -> dict[str, FileRecord]:
    """Returns the files that match the record and removes all others. Raises OSError if that fails."""
    if (folder / RECORD).is_dir() or (folder / RECORD).is_symlink():
        remove(folder / RECORD)
    recorded = read(folder)
    intact = {name: record for name, record in recorded.items() if is_intact(folder / name, record)}
    for path in folder.iterdir():
        if path.name not in (LOCK, RECORD, *intact):
            log.info("%s: damaged or incomplete; removed, to be compiled again", path)
            remove(path)
    return intact


def read(folder: Path) -> Mapping[str, FileRecord]:
    """The files of the folder's record; empty if it cannot be read, is another folder's, or is not signed."""
    record = read_signed(Compiled, folder / RECORD)
    return record.files if record is not None and record.folder == folder.name else {}


def is_intact(path: Path, record: FileRecord) -> bool:
    """Whether a file belongs to this user and matches its record."""
    try:
        regular = path.is_file() and not path.is_symlink() and owned_by_user(path)
        return regular and path.stat().st_size == record.bytes and sha256_of(path) == record.sha256
    except (OSError, BundleError):
        return False


def remove(path: Path) -> None:
    """Removes a file or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def record_new(folder: Path, known: Mapping[str, FileRecord]) -> None:
    """Adds new files of the folder to the record. If that fails, they are compiled again the next time."""
    try:
        new = [path.name for path in folder.iterdir() if path.name not in (LOCK, RECORD, *known)]
        if not new:
            return
        compiled = Compiled(folder.name, {**known, **record_files(folder, new)})
        with new_file(folder / RECORD) as temporary:
            temporary.write_text(signed(compiled), encoding="utf-8")
    except (OSError, BundleError, EngineError) as error:
        log.warning("%s: compiled OpenVINO graphs cannot be cached there: %s", folder, error)
