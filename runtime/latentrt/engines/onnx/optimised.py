"""Graphs that ONNX Runtime optimised for one processor: weights packed, and memory-mapped from the disk.

`latentrt build --target cpu` writes them. Weights packed for other instruction sets would silently give wrong numbers,
so the key of a graph includes the processor and ONNX Runtime's version. Records are signed like plans: only what this
user built is read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from latentrt.bundle.folder import Bundle
from latentrt.bundle.manifest import Fidelity, FileRecord
from latentrt.device.cpu import processor
from latentrt.engines import telemetry
from latentrt.engines.artifacts import check_files, graph_digest, read_signed, signed
from latentrt.engines.nvidia.plans import plan_store

log = logging.getLogger(__name__)

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
    """The optimised graph of a component, verified if the bundle was; None if there is none that this user signed.

    Raises BundleError if its files are damaged.
    """
    folder = folder_of(bundle, component)
    if folder is None:
        return None
    record = signed_record(folder, key_of(bundle, component))
    if record is None:
        return None
    check_files(folder, record, verify=bundle.verified)
    return folder / next(iter(record.files))


def signed_record(folder: Path, key: OptimisedKey) -> Optimised | None:
    """The record in a folder, if it is of this key and signed by this user; else None, and a warning."""
    record = read_signed(Optimised, folder / RECORD)
    if record is not None and record.key == key:
        return record
    log.warning(
        "%s: not built by this user or changed since, so the graph as exported is used; run `latentrt build` with "
        "--target cpu again, or copy the builder's secret (docs/cpu.md)",
        folder,
    )
    return None


def write_record(folder: Path, optimised: Optimised) -> None:
    """Writes the signed record into the folder of the files. Raises EngineError without a secret to sign it."""
    (folder / RECORD).write_text(signed(optimised), encoding="utf-8")
