"""Where this user's files go that can always be made again."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache(part: str) -> Path:
    """The folder of one kind of such files, which may not be there yet; XDG_CACHE_HOME says where all of them are."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latentrt" / part


def writable(folder: Path) -> bool:
    """Whether files can be made in the folder, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
