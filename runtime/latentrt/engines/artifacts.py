"""Folders of files made from a graph, each with a record of sizes and hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

from latentrt.bundle.folder import check_size, confined, sha256_of
from latentrt.bundle.manifest import Component, FileRecord, Manifest
from latentrt.engines.secret import is_signed, signature_of
from latentrt.errors import BundleError
from latentrt.storage.json_codec import parse, record_text


class Derived(Protocol):
    """A record, which is a dataclass. files: the other files of the folder, the graph first."""

    @property
    def files(self) -> Mapping[str, FileRecord]:
        """Sizes and hashes by file name."""
        ...


D = TypeVar("D", bound=Derived)
R = TypeVar("R")

HMAC = "hmac"  # the field of a signed record with its signature


def signed(record: Any) -> str:
    """A record, which is a dataclass, as JSON with its signature. Raises EngineError without a secret."""
    fields = asdict(record)
    return record_text({**fields, HMAC: signature_of(content_of(fields))})


def read_signed(kind: type[R], path: Path) -> R | None:
    """The record in a file; None if it cannot be read, or if this user did not sign it as it is."""
    try:
        fields = json.loads(path.read_bytes())
        signature = fields.pop(HMAC)
        return parse(kind, fields) if is_signed(content_of(fields), signature) else None
    except (OSError, ValueError, RecursionError, KeyError, AttributeError, TypeError):
        return None


def content_of(fields: Mapping[str, Any]) -> bytes:
    """What is signed: equal fields, and only these, give equal bytes."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def check_files(folder: Path, derived: Derived, *, verify: bool) -> None:
    """Checks the size and, with `verify`, the hash of each file of a record. Raises BundleError if one differs."""
    with damage_reported(folder):
        if not derived.files:
            raise BundleError(f"{folder}: its record lists no files")
        for name, file in derived.files.items():
            check_size(confined(folder, name), file)
            if verify and sha256_of(folder / name) != file.sha256:
                raise BundleError(f"{folder / name}: its hash differs from the recorded one")


def read_derived(kind: type[D], record: Path) -> D:
    """Reads a record, and checks sizes and hashes of its files. Raises BundleError if one differs."""
    with damage_reported(record.parent):
        derived = parse(kind, json.loads(record.read_bytes()))
    check_files(record.parent, derived, verify=True)
    return derived


@contextmanager
def damage_reported(folder: Path) -> Iterator[None]:
    """Turns errors in the block into a BundleError that says what to do about a damaged folder."""
    try:
        yield
    except (OSError, ValueError, RecursionError, BundleError) as error:
        raise BundleError(f"{folder}: damaged ({error}); remove this folder and run `latentrt build` again") from error


def graph_digest(manifest: Manifest, component: Component) -> str:
    """SHA-256, in hexadecimal, over the hashes of a component's graph and weights in the manifest."""
    files = (component.file, *component.data)
    return hashlib.sha256("\n".join(manifest.files[file].sha256 for file in files).encode()).hexdigest()


def one_line(error: Exception) -> str:
    """The error's message on one line; some versions of ONNX Runtime break lines."""
    return " ".join(str(error).split())
