"""The user's folders: the cache, for files that can be made again, and the state, for files that cannot.

They are the system's usual ones: on Linux ~/.cache and ~/.local/state, or XDG_CACHE_HOME and XDG_STATE_HOME.
"""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path, user_state_path

NAME = "latentrt"
# For a user without a home folder, as in some containers: a path where no folder can be made.
NOWHERE = Path(os.devnull) / NAME


def user_cache(part: str) -> Path:
    """The cache folder for one kind of files; it may not exist, and is not created here."""
    try:
        return user_cache_path(NAME, appauthor=False) / part
    except RuntimeError:
        return NOWHERE / part


def user_state() -> Path:
    """The state folder, for files to keep; it may not exist, and is not created here."""
    try:
        return user_state_path(NAME, appauthor=False)
    except RuntimeError:
        return NOWHERE


def writable(folder: Path) -> bool:
    """True if files can be created in the folder; creates the folder if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def owned_by_user(path: Path) -> bool:
    """True if the file or folder belongs to this user, and always on systems without owners' ids, such as Windows."""
    uid = getattr(os, "getuid", None)
    return uid is None or path.lstat().st_uid == uid()
