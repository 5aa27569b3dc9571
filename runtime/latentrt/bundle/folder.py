"""A bundle on disk: path, size and hash of every file are checked before an engine reads it.

Symbolic links are refused. Hard links are allowed: package installers make them (uv does by default), and the hash
checks their content.
"""

from __future__ import annotations

import hashlib
import logging
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from latentrt.bundle.manifest import FileRecord, Manifest
from latentrt.bundle.manifest_hash import check, has_hash
from latentrt.bundle.manifest_json import read, write
from latentrt.errors import BundleError
from latentrt.storage import hashes
from latentrt.storage.json_codec import TypedError

log = logging.getLogger(__name__)

MANIFEST = "bundle.json"
LARGEST_MANIFEST_BYTES = 16 << 20

REMEDY = "copy the bundle again or export it anew with `latentrt export`"


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder and its manifest. sha256: of bundle.json. verified: True if all files' hashes were checked."""

    folder: Path
    manifest: Manifest
    sha256: str
    verified: bool = True

    def path(self, file: str) -> Path:
        """The path of a file that the manifest lists."""
        return self.folder / file


def open_bundle(folder: Path, *, verify: bool = True) -> Bundle:
    """Returns the bundle in `folder`, with the sizes of its files checked and, if `verify`, their hashes.

    Raises BundleError that names the file, what was got and what was expected, and what to do.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder}: got no folder there, expected a bundle; make one with `latentrt export`")
    content = read_manifest(folder)
    manifest = parsed(folder, content)
    if not has_hash(content):
        log.warning(
            "%s: has no hash of itself, so damage to it is not found: run `latentrt upgrade`", folder / MANIFEST
        )
    check_files(folder, manifest)
    if verify:
        check_hashes(folder, manifest)
    return Bundle(folder, manifest, hashlib.sha256(content).hexdigest(), verify)


def parsed(folder: Path, content: bytes, *, edited: bool = False) -> Manifest:
    """The manifest in the content of bundle.json. edited: skip the check of its own hash. Raises BundleError."""
    try:
        if not edited and has_hash(content):
            check(content)
        return read(content)
    except TypedError as error:
        raise BundleError(f"{folder / MANIFEST}: {error}; {REMEDY}") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{folder / MANIFEST}: not valid JSON ({error}); {REMEDY}") from error


def read_manifest(folder: Path) -> bytes:
    """The bytes of bundle.json. Raises BundleError if it is missing, a link, or far too large."""
    path = confined(folder, MANIFEST)
    if not path.is_file():
        raise BundleError(f"{path}: missing, so this is no bundle; make one with `latentrt export`")
    with reading(path), path.open("rb") as file:
        content = file.read(LARGEST_MANIFEST_BYTES + 1)
    if len(content) > LARGEST_MANIFEST_BYTES:
        raise BundleError(f"{path}: got more than {LARGEST_MANIFEST_BYTES} bytes, which no manifest has; {REMEDY}")
    return content


def confined(folder: Path, file: str) -> Path:
    """The path of `file` in `folder`. Raises BundleError unless it is relative, without "..", and free of links."""
    parts = file.split("/")
    unsafe = "\\" in file or ":" in parts[0] or not file.isprintable()  # a drive, NUL, half a surrogate pair
    if unsafe or any(part in ("", ".", "..") for part in parts):
        raise BundleError(f"{folder / MANIFEST}: got the path {file!r}, expected one inside the bundle; {REMEDY}")
    path = folder
    for part in parts:
        path = path / part
        with reading(path):
            linked = path.is_symlink()
        if linked:
            raise BundleError(f"{path}: got a symbolic link, expected the file itself; copy with `cp -rL`, or {REMEDY}")
    return path


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raises BundleError unless every listed file is in the folder and has its recorded size."""
    for file, record in manifest.files.items():
        check_size(confined(folder, file), record)


def check_size(path: Path, record: FileRecord) -> None:
    """Raises BundleError unless `path` is a regular file of the recorded size."""
    with reading(path):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path}: got something that is no regular file; {REMEDY}")
    if status.st_size != record.bytes:
        raise BundleError(f"{path}: got {status.st_size} bytes, expected {record.bytes}; {REMEDY}")


def check_hashes(folder: Path, manifest: Manifest) -> None:
    """Raises BundleError for the first listed file whose SHA-256 differs."""
    with ThreadPoolExecutor() as pool:  # hashlib releases the interpreter's lock
        digests = pool.map(lambda file: sha256_of(folder / file), manifest.files)
        for (file, record), digest in zip(manifest.files.items(), digests, strict=True):
            if digest != record.sha256:
                raise BundleError(f"{folder / file}: got sha256 {digest}, expected {record.sha256}; {REMEDY}")


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal. Raises BundleError for a file that cannot be read."""
    with reading(path):
        return hashes.sha256_of(path)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns system errors in the block into a BundleError about `path`: missing, no permission, a bad disk."""
    try:
        yield
    except OSError as error:
        raise BundleError(f"{path}: missing or unreadable ({error.strerror}); {REMEDY}") from error


def record_files(folder: Path, files: Iterable[str]) -> dict[str, FileRecord]:
    """The current size and hash of each of `files` in `folder`, in the same order."""
    return {file: FileRecord((folder / file).stat().st_size, sha256_of(folder / file)) for file in files}


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes bundle.json into a folder that `atomic.new_folder` will put in place."""
    (folder / MANIFEST).write_bytes(write(manifest).encode())  # bytes: other line endings would break its own hash
