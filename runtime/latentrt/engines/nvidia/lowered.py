"""Lowered graphs on disk, each with a record: component, precision, and sizes and hashes of its files.

`latentrt_export.lower.tensorrt` writes them on a workstation. They are read without onnx, so that a device can build
plans from them and put their weights into plans built without any.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from latentrt.bundle.folder import Bundle
from latentrt.bundle.manifest import Fidelity, FileRecord
from latentrt.engines.artifacts import graph_digest, read_derived
from latentrt.engines.nvidia.plans import PlanKey
from latentrt.storage.json_codec import record_text

RECORD = "lowered.json"
# Increased with every change of lowering: plans and graphs of other versions are not used.
VERSION = 1

Attention = Literal["decomposed", "operator"]
ATTENTIONS: tuple[Attention, ...] = get_args(Attention)
Floats = Literal["fp16", "fp32"]


@dataclass(frozen=True)
class Lowered:
    """The record of a lowered component.

    floats: type of computations that are not INT8. fidelity: compared with the canonical graph. files: the graph first.
    """

    component: str
    floats: Floats
    attention: Attention
    fidelity: Fidelity
    files: Mapping[str, FileRecord]


@dataclass(frozen=True)
class LoweredGraph:
    """A lowered graph whose files match its record. digest: see `digest_of`."""

    lowered: Lowered
    folder: Path
    digest: str

    @property
    def graph(self) -> Path:
        """The ONNX file."""
        return self.folder / next(iter(self.lowered.files))

    @property
    def flag(self) -> str:
        """The flag in the key of plans built from this graph."""
        return flag_of(self.digest)

    @property
    def bytes(self) -> int:
        """The size of the graph and its weights."""
        return sum(record.bytes for record in self.lowered.files.values())


def digest_of(bundle: Bundle, component: str, attention: Attention) -> str:
    """The name of a lowered graph: a digest of the canonical graph's hashes and the kind of lowering."""
    canonical = graph_digest(bundle.manifest, bundle.manifest.components[component])
    return hashlib.sha256(f"{canonical} {attention} {VERSION}".encode()).hexdigest()[:16]


def flag_of(digest: str) -> str:
    """The flag in the key of plans built from the lowered graph with that digest."""
    return f"lowered={digest}"


def lowered_graph_of(key: PlanKey, bundle: Bundle, component: str, folders: Iterable[Path]) -> LoweredGraph | None:
    """The lowered graph that a plan was built from; None if it is missing. Raises BundleError if it is damaged."""
    for attention in ATTENTIONS:
        if flag_of(digest_of(bundle, component, attention)) in key.flags:
            return find(bundle, folders, component, attention)
    return None


def is_current(key: PlanKey, bundle: Bundle, component: str) -> bool:
    """Whether a plan was built from this component's current graph, with the current version of lowering."""
    return any(flag_of(digest_of(bundle, component, attention)) in key.flags for attention in ATTENTIONS)


def folder_in(folder: Path, component: str, digest: str) -> Path:
    """The path of a lowered graph in a folder of plans."""
    return folder / "lowered" / f"{component}-{digest}"


def find(bundle: Bundle, folders: Iterable[Path], component: str, attention: Attention) -> LoweredGraph | None:
    """The lowered graph of a component in the first of `folders` that has it; None if there is none.

    Raises BundleError if it is damaged.
    """
    digest = digest_of(bundle, component, attention)
    for folder in folders:
        path = folder_in(folder, component, digest)
        if os.path.isdir(path):  # also skips folders that this user may not read
            return LoweredGraph(read(path), path, digest)
    return None


def read(folder: Path) -> Lowered:
    """Reads the record and checks size and hash of each file. Raises BundleError if one differs."""
    return read_derived(Lowered, folder / RECORD)


def write_record(folder: Path, lowered: Lowered) -> None:
    """Writes the record into the folder of the files."""
    (folder / RECORD).write_text(record_text(lowered), encoding="utf-8")
