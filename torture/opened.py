"""The files that this process opens, as Python's audit events tell them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

watchers: list[set[str]] = []


def heard(event: str, arguments: tuple[object, ...]) -> None:
    """Notes the path of every file that is opened while somebody watches."""
    if event == "open" and watchers and isinstance(arguments[0], (str, bytes, os.PathLike)):
        for watcher in watchers:
            watcher.add(os.fsdecode(arguments[0]))


sys.addaudithook(heard)  # a hook cannot be removed


@contextmanager
def opened_outside(folder: Path) -> Iterator[set[str]]:
    """Yields a set that holds, after the block, the opened paths that are not in the folder.

    Python's own modules are left out: an import may come first in any block.
    """
    seen: set[str] = set()
    watchers.append(seen)
    outside: set[str] = set()
    try:
        yield outside
    finally:
        watchers.remove(seen)
        ours = (os.path.realpath(folder), sys.prefix, sys.base_prefix, os.path.realpath(Path(__file__).parents[1]))
        outside |= {path for path in seen if not os.path.realpath(path).startswith(ours)}
