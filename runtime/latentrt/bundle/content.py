"""Identity of a checkpoint by its content, so that a moved, renamed or copied one is recognised.

Reading several GB takes seconds, so the result is remembered with the size and the time of change of every file.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from latentrt.bundle.checkpoint import files_of
from latentrt.errors import CheckpointError
from latentrt.storage.atomic import new_file
from latentrt.storage.hashes import sha256_of
from latentrt.storage.json_codec import read_record, record_text
from latentrt.storage.safetensors import stamp_of
from latentrt.storage.user_dirs import user_cache

log = logging.getLogger(__name__)

# A checkpoint that is larger is read in silence for long enough to wonder.
LARGE_BYTES = 500_000_000


@dataclass(frozen=True)
class Remembered:
    """The content of a checkpoint at `path`, as long as its files have these stamps: size, and time of change in ns."""

    path: str
    stamps: Mapping[str, tuple[int, int]]
    content: str


def content_of(checkpoint: Path) -> str:
    """A SHA-256 over names, sizes and contents of a checkpoint's files; the name of a single file does not count.

    Raises CheckpointError for a file that cannot be read, or that changes meanwhile.
    """
    whole = checkpoint.resolve()
    try:
        stamps = stamps_of(whole)
        known = read_record(Remembered, memory_of(whole))
        if known is not None and (known.path, known.stamps) == (str(whole), stamps):
            return known.content
        size = sum(size for size, _ in stamps.values())
        if size > LARGE_BYTES:
            log.info("%s: reading %.1f GB once, to recognise the model", checkpoint, size / 1e9)
        content = computed(whole, stamps)
        changed = stamps_of(whole) != stamps
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or checkpoint} cannot be read ({error.strerror or error}): check its permissions, or "
            "fetch it again"
        ) from error
    if changed:
        raise CheckpointError(f"{checkpoint} changes while it is read: wait until it is complete, and try again")
    remember(memory_of(whole), Remembered(str(whole), stamps, content))
    return content


def stamps_of(checkpoint: Path) -> dict[str, tuple[int, int]]:
    """The stamp of every file that counts, by its path in the checkpoint; "" for a single file. Raises OSError."""
    if checkpoint.is_file():
        return {"": stamp_of(checkpoint)}
    return {path.relative_to(checkpoint).as_posix(): stamp_of(path) for path in files_of(checkpoint)}


def computed(checkpoint: Path, stamps: Mapping[str, tuple[int, int]]) -> str:
    """The content, read from the files. Raises OSError."""
    # One after another: threads of a pool would go on after Ctrl-C until their gigabytes are read.
    rows = [[name, size, sha256_of(checkpoint / name)] for name, (size, _) in stamps.items()]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def memory_of(checkpoint: Path) -> Path:
    """The file that remembers the content of the checkpoint at that path."""
    return user_cache("checkpoints") / f"{hashlib.sha256(str(checkpoint).encode()).hexdigest()[:16]}.json"


def remember(memory: Path, found: Remembered) -> None:
    """Writes the file, if the cache can be written: otherwise the checkpoint is read again the next time."""
    with suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        with new_file(memory) as temporary:
            temporary.write_text(record_text(found), encoding="utf-8")
