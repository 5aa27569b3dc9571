"""Folders of what was made of a graph: files, and a record that says what they must measure to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from latentrt.bundle.folder import check_size, confined, sha256_of
from latentrt.bundle.manifest import Component, FileRecord, Manifest
from latentrt.errors import BundleError
from latentrt.storage.json_codec import TypedError, parse


class Derived(Protocol):
    """A record, which is a dataclass. files: what else is in the folder, the graph first."""

    @property
    def files(self) -> Mapping[str, FileRecord]:
        """By name."""
        ...


D = TypeVar("D", bound=Derived)


def read_record(kind: type[D], record: Path, *, verify: bool = True) -> D:
    """What the record says, each file beside it of the right size and, if `verify`, hash. Raises BundleError."""
    folder = record.parent
    try:
        derived = parse(kind, json.loads(record.read_bytes()))
        if not derived.files:
            raise BundleError(f"{record}: lists no files")
        for name, file in derived.files.items():
            check_size(confined(folder, name), file)
            if verify and sha256_of(folder / name) != file.sha256:
                raise BundleError(f"{folder / name}: got another hash than was written down")
    except (OSError, TypedError, ValueError, RecursionError, BundleError) as error:
        raise BundleError(f"{folder}: damaged ({error}); remove this folder and run `latentrt build` again") from error
    return derived


def graph_digest(manifest: Manifest, component: Component) -> str:
    """SHA-256, in hexadecimal, that stands for a component's graph and weights: of what the manifest says of them."""
    files = (component.file, *component.data)
    return hashlib.sha256("\n".join(manifest.files[file].sha256 for file in files).encode()).hexdigest()


def one_line(error: Exception) -> str:
    """The error's message without the line breaks that some versions of ONNX Runtime put into it."""
    return " ".join(str(error).split())
