"""Lowered graphs on disk: which component each is of, in which precision, and what its files must measure to.

Written on a workstation by `latentrt_export.lower.tensorrt`; read without onnx, so that a device can build plans from
them and put their weights into plans that were built without.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from latentrt.bundle.folder import Bundle
from latentrt.bundle.manifest import Fidelity, FileRecord
from latentrt.engines.artifacts import graph_digest, read_record
from latentrt.engines.nvidia.plans import PlanKey

RECORD = "lowered.json"
# Raised with every change of what lowering makes of a graph: plans and graphs of other versions are not used.
VERSION = 1

Attention = Literal["decomposed", "operator"]
ATTENTIONS: tuple[Attention, ...] = get_args(Attention)
Floats = Literal["fp16", "fp32"]


@dataclass(frozen=True)
class Lowered:
    """One component for TensorRT.

    floats: what it computes in where it is not INT8. fidelity: against the canonical graph. files: the graph first.
    """

    component: str
    floats: Floats
    attention: Attention
    fidelity: Fidelity
    files: Mapping[str, FileRecord]


@dataclass(frozen=True)
class Source:
    """A lowered graph that has been found whole. digest: its name among all versions of it."""

    lowered: Lowered
    folder: Path
    digest: str

    @property
    def graph(self) -> Path:
        """The ONNX file."""
        return self.folder / next(iter(self.lowered.files))

    @property
    def flag(self) -> str:
        """What the key of a plan says that was built from it."""
        return flag_of(self.digest)

    @property
    def bytes(self) -> int:
        """Of the graph and its weights."""
        return sum(record.bytes for record in self.lowered.files.values())


def digest_of(bundle: Bundle, component: str, attention: Attention) -> str:
    """What a lowered graph is called after: the canonical graph's hashes and how it is lowered."""
    canonical = graph_digest(bundle.manifest, bundle.manifest.components[component])
    return hashlib.sha256(f"{canonical} {attention} {VERSION}".encode()).hexdigest()[:16]


def flag_of(digest: str) -> str:
    """What the key of a plan says that was built from the lowered graph of that name."""
    return f"lowered={digest}"


def source_of(key: PlanKey, bundle: Bundle, component: str, folders: Iterable[Path]) -> Source | None:
    """The lowered graph that a plan was built from, if it is still there. Raises BundleError for a damaged one."""
    for attention in ATTENTIONS:
        if flag_of(digest_of(bundle, component, attention)) in key.flags:
            return find(bundle, folders, component, attention)
    return None


def is_current(key: PlanKey, bundle: Bundle, component: str) -> bool:
    """Whether a plan is of this component's graph as it is now, and as lowering makes it now."""
    return any(flag_of(digest_of(bundle, component, attention)) in key.flags for attention in ATTENTIONS)


def folder_in(folder: Path, component: str, digest: str) -> Path:
    """Where in a folder of plans a lowered graph is."""
    return folder / "lowered" / f"{component}-{digest}"


def find(bundle: Bundle, folders: Iterable[Path], component: str, attention: Attention) -> Source | None:
    """The lowered graph of a component in the first of `folders` that has it; None if there is none.

    Raises BundleError for one that is damaged.
    """
    digest = digest_of(bundle, component, attention)
    for folder in folders:
        path = folder_in(folder, component, digest)
        if os.path.isdir(path):  # nor one that this user may not see
            return Source(read(path), path, digest)
    return None


def read(folder: Path) -> Lowered:
    """What the folder holds, each file checked against its size and hash. Raises BundleError."""
    return read_record(Lowered, folder / RECORD)


def write_record(folder: Path, lowered: Lowered) -> None:
    """Writes the record into a folder that holds the files."""
    (folder / RECORD).write_text(json.dumps(asdict(lowered), indent=2) + "\n", encoding="utf-8")
