"""Graphs that ONNX Runtime has optimised for one processor: laid out, packed, and mapped from the disk as they are.

Written by `latentrt build --target cpu`. Weights in a layout for other instructions would give wrong numbers without a
word, so the processor and the version are part of what such a graph is called after.
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
# Raised with every change of what is made of a graph before ONNX Runtime gets it.
VERSION = 2


@dataclass(frozen=True)
class OptimisedKey:
    """What an optimised graph depends on. graph: `graph_digest` of the canonical component. lowering: `VERSION`."""

    graph: str
    lowering: int
    onnxruntime: str
    processor: str

    @property
    def digest(self) -> str:
        """What the graph's folder is called after."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Optimised:
    """One component. fidelity: against the canonical graph. files: the graph first."""

    component: str
    key: OptimisedKey
    fidelity: Fidelity
    files: Mapping[str, FileRecord]


def key_of(bundle: Bundle, component: str) -> OptimisedKey:
    """The key of a component here and now."""
    graph = graph_digest(bundle.manifest, bundle.manifest.components[component])
    return OptimisedKey(graph, VERSION, telemetry.onnxruntime().__version__, processor())


def folder_in(folder: Path, component: str, key: OptimisedKey) -> Path:
    """Where in a folder of plans an optimised graph is."""
    return folder / "cpu" / f"{component}-{key.digest}"


def folder_of(bundle: Bundle, component: str) -> Path | None:
    """The folder of the component's optimised graph; None where there is none for this processor and version."""
    for folder in plan_store(bundle.folder).folders:
        if os.path.isdir(
            folder / "cpu"
        ):  # nor one that this user may not see; else nothing has to be imported to know the version
            path = folder_in(folder, component, key_of(bundle, component))
            if os.path.isdir(path):
                return path
    return None


def graph_of(bundle: Bundle, component: str) -> Path | None:
    """The optimised graph of a component, its files checked as those of the bundle were; None if there is none.

    Raises BundleError for one that is damaged.
    """
    folder = folder_of(bundle, component)
    return None if folder is None else folder / next(iter(read(folder, verify=bundle.verified).files))


def read(folder: Path, *, verify: bool) -> Optimised:
    """What the folder holds, each file of the right size and, if `verify`, hash. Raises BundleError."""
    return read_record(Optimised, folder / RECORD, verify=verify)


def write_record(folder: Path, optimised: Optimised) -> None:
    """Writes the record into a folder that holds the files."""
    (folder / RECORD).write_text(json.dumps(asdict(optimised), indent=2) + "\n", encoding="utf-8")
