"""Bundles in the user's cache, exported from checkpoints at first use: CACHE/bundles/KEY/NAME.

KEY stands for the checkpoint's content and the options of the export. A record of the source is beside the bundle.
"""

from __future__ import annotations

import secrets
import shutil
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from latentrt.errors import BundleError, OutputError
from latentrt.storage.atomic import new_file
from latentrt.storage.json_codec import read_record, record_text
from latentrt.storage.locks import LOCK, locked
from latentrt.storage.user_dirs import user_cache, writable

RECORD = "source.json"


@dataclass(frozen=True)
class Source:
    """The record of a cached bundle. path: of the checkpoint when it was exported. content: SHA-256 of its files."""

    path: str
    content: str
    precision: str
    latentrt: str


@dataclass(frozen=True)
class CachedBundle:
    """A bundle in the cache. name: unique, for `--bundle`. home: the folder of its key, in which `folder` is."""

    name: str
    home: Path
    folder: Path
    source: str | None


def store() -> Path:
    """The folder of all cached bundles; it may not exist."""
    return user_cache("bundles")


def bundle_in(home: Path) -> Path | None:
    """The finished bundle in the folder of a key; None if there is none. Unfinished ones have hidden names."""
    found = (path.parent for path in home.glob("*/bundle.json") if not path.parent.name.startswith("."))
    return next(found, None)


def cached_bundles(taken: Collection[str] = ()) -> list[CachedBundle]:
    """All cached bundles, sorted by name. A name that is `taken` or there twice is followed by a part of the key."""
    homes = [home for home in store().glob("*") if not home.is_symlink()]
    found = [(folder.name, home, folder) for home in homes if (folder := bundle_in(home)) and not folder.is_symlink()]
    counts = Counter([*(name for name, _, _ in found), *taken])
    named = [
        (name if counts[name] == 1 else f"{name}-{home.name[:8]}", home, folder) for name, home, folder in sorted(found)
    ]
    return [CachedBundle(name, home, folder, source_in(home)) for name, home, folder in named]


def source_in(home: Path) -> str | None:
    """The path of the checkpoint that a cached bundle was exported from; None without a readable record."""
    found = read_record(Source, home / RECORD)
    return None if found is None else found.path


def write_source(home: Path, source: Source) -> None:
    """Writes the record of a cached bundle. Raises OSError."""
    with new_file(home / RECORD) as temporary:
        temporary.write_text(record_text(source), encoding="utf-8")


def remove_unfinished(home: Path) -> None:
    """Removes from the folder of a key what is left of an export that was killed; the caller holds its lock."""
    for path in home.glob(".*"):
        if path.name != LOCK:
            delete(path)


def remove(cached: CachedBundle) -> None:
    """Removes a cached bundle. Raises BundleError while it is exported, OutputError where it cannot be removed.

    The folder of its key stays, with the lock that other processes may wait for.
    """
    with locked(cached.home, wait=False) as alone:
        if not alone and writable(cached.home):
            raise BundleError(f"{cached.name}: it is being exported or removed now; try again later")
        try:
            # Renamed first: a bundle of which half is removed is never found.
            hidden = cached.home / f".removed.{secrets.token_hex(8)}"
            cached.folder.rename(hidden)
            delete(hidden)
            (cached.home / RECORD).unlink(missing_ok=True)
        except OSError as error:
            why = error.strerror or error
            raise OutputError(f"{cached.folder}: cannot be removed ({why}); check who may write there") from error


def delete(path: Path) -> None:
    """Removes a file, a link or a folder. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
