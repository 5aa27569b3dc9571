"""What OpenVINO compiled, kept for the next process: a folder for each compilation, read only while it is as written.

OpenVINO maps whatever lies in its cache and looks at nothing but its own header: a flipped bit is another picture. So
each file's hash is written down when it is made, and what differs is removed before OpenVINO sees it.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from latentrt.bundle.folder import record_files, sha256_of
from latentrt.bundle.manifest import FileRecord
from latentrt.errors import BundleError
from latentrt.storage.atomic import new_file
from latentrt.storage.json_codec import TypedError, parse
from latentrt.storage.locks import LOCK, locked
from latentrt.storage.user_dirs import owned_by_user

log = logging.getLogger(__name__)

RECORD = "compiled.json"


@dataclass(frozen=True)
class Compiled:
    """What is in the folder. files: by name."""

    files: Mapping[str, FileRecord]


@contextmanager
def kept(folder: Path) -> Iterator[dict[str, str]]:
    """Gives the settings that have OpenVINO look into the folder, and write there what it compiles in the block.

    One thread or process is in it at a time; the others wait, and find what it made. Gives no settings where the folder
    cannot be used: it cannot be written, or is another user's.
    """
    with ExitStack() as held:
        try:
            for place in (folder.parent, folder):
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not owned_by_user(folder):
                raise PermissionError(0, "it belongs to another user")
            held.enter_context(locked(folder))
            known = checked(folder)
        except OSError as error:
            warn_once(folder.parents[1], error.strerror or str(error))
            yield {}
            return
        yield {"CACHE_DIR": str(folder)}
        write_down(folder, known)


@cache
def warn_once(place: Path, reason: str) -> None:
    """Says that nothing is kept, once for all components."""
    log.warning("%s: what OpenVINO compiles cannot be kept there: %s", place, reason)


def checked(folder: Path) -> dict[str, FileRecord]:
    """The files that are as they were written; all else is removed. Raises OSError where that cannot be done."""
    if (folder / RECORD).is_dir() or (folder / RECORD).is_symlink():
        remove(folder / RECORD)
    recorded = read(folder / RECORD)
    whole = {name: record for name, record in recorded.items() if is_whole(folder / name, record)}
    for path in folder.iterdir():
        if path.name not in (LOCK, RECORD, *whole):
            log.info("%s: damaged, or not finished; removed, to be compiled again", path)
            remove(path)
    return whole


def read(record: Path) -> dict[str, FileRecord]:
    """What is written down; nothing where that cannot be read."""
    try:
        return dict(parse(Compiled, json.loads(record.read_bytes())).files)
    except (OSError, TypedError, ValueError, RecursionError):
        return {}


def is_whole(path: Path, record: FileRecord) -> bool:
    """Whether a file is this user's and as it was written."""
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


def write_down(folder: Path, known: Mapping[str, FileRecord]) -> None:
    """Records what is new in the folder. Where that cannot be done it is compiled again the next time."""
    try:
        new = [path.name for path in folder.iterdir() if path.name not in (LOCK, RECORD, *known)]
        if not new:
            return
        compiled = Compiled({**known, **record_files(folder, new)})
        with new_file(folder / RECORD) as temporary:
            temporary.write_text(json.dumps(asdict(compiled), indent=2) + "\n", encoding="utf-8")
    except (OSError, BundleError) as error:
        log.warning("%s: what OpenVINO compiled cannot be kept there: %s", folder, error)
