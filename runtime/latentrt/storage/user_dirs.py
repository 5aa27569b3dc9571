"""Folders of this user: the cache, for files that can be made again, and data, for those that cannot.

The folders are the system's usual ones: on Linux ~/.cache and ~/.local/state, or what XDG_CACHE_HOME and XDG_STATE_HOME
say.
"""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path, user_state_path

NAME = "latentrt"
# Where a user has no home folder, as in some containers: no folder can be made in it.
NOWHERE = Path(os.devnull) / NAME


def user_cache(part: str) -> Path:
    """The folder of one kind of files that can be made again; it may not be there yet, and may not be made."""
    try:
        return user_cache_path(NAME, appauthor=False) / part
    except RuntimeError:
        return NOWHERE / part


def user_state() -> Path:
    """The folder of what is to be kept; it may not be there yet, and may not be made."""
    try:
        return user_state_path(NAME, appauthor=False)
    except RuntimeError:
        return NOWHERE


def writable(folder: Path) -> bool:
    """True if files can be created in the folder, which is created if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def own(path: Path) -> bool:
    """True if the file or folder belongs to this user, and where the system does not say, as on Windows."""
    uid = getattr(os, "getuid", None)
    return uid is None or path.lstat().st_uid == uid()
