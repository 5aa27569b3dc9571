"""Graphs that ONNX Runtime optimised for one processor: weights packed, and memory-mapped from the disk.

`latentrt build --target cpu` writes them. Weights packed for other instruction sets would silently give wrong numbers,
so the key of a graph includes the processor and ONNX Runtime's version.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from latentrt.bundle.folder import Bundle
from latentrt.bundle.manifest import Fidelity, FileRecord
from latentrt.device.cpu import processor
from latentrt.engines import telemetry
from latentrt.engines.artifacts import graph_digest, read_record
from latentrt.engines.nvidia.plans import plan_store

RECORD = "optimised.json"
# Increased with every change of the graph rewrites that precede ONNX Runtime.
VERSION = 2


@dataclass(frozen=True)
class OptimisedKey:
    """The key of an optimised graph. graph: `graph_digest` of the canonical component. lowering: `VERSION`."""

    graph: str
    lowering: int
    onnxruntime: str
    processor: str

    @property
    def digest(self) -> str:
        """The part of the folder's name that identifies the key."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Optimised:
    """The record of an optimised component. fidelity: compared with the canonical graph. files: the graph first."""

    component: str
    key: OptimisedKey
    fidelity: Fidelity
    files: Mapping[str, FileRecord]


def key_of(bundle: Bundle, component: str) -> OptimisedKey:
    """The key of a component on this processor, with the installed ONNX Runtime."""
    graph = graph_digest(bundle.manifest, bundle.manifest.components[component])
    return OptimisedKey(graph, VERSION, telemetry.onnxruntime().__version__, processor())


def folder_in(folder: Path, component: str, key: OptimisedKey) -> Path:
    """The path of an optimised graph in a folder of plans."""
    return folder / "cpu" / f"{component}-{key.digest}"


def folder_of(bundle: Bundle, component: str) -> Path | None:
    """The folder of a component's optimised graph for this processor and ONNX Runtime; None if there is none."""
    for folder in plan_store(bundle.folder).folders:
        # False also for folders that this user may not read. Without any, ONNX Runtime is not imported for its version.
        if os.path.isdir(folder / "cpu"):
            path = folder_in(folder, component, key_of(bundle, component))
            if os.path.isdir(path):
                return path
    return None


def graph_of(bundle: Bundle, component: str) -> Path | None:
    """The optimised graph of a component, verified if the bundle was; None if there is none.

    Raises BundleError if it is damaged.
    """
    folder = folder_of(bundle, component)
    return None if folder is None else folder / next(iter(read(folder, verify=bundle.verified).files))


def read(folder: Path, *, verify: bool) -> Optimised:
    """Reads the record and checks each file's size and, with `verify`, hash. Raises BundleError if one differs."""
    return read_record(Optimised, folder / RECORD, verify=verify)


def write_record(folder: Path, optimised: Optimised) -> None:
    """Writes the record into the folder of the files."""
    (folder / RECORD).write_text(json.dumps(asdict(optimised), indent=2) + "\n", encoding="utf-8")
