"""The seam between the pipeline and what runs a graph; nothing outside this folder knows which engine that is."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from latentrt.errors import EngineError
from latentrt.manifest import Component
from latentrt.tensors import Array


class Engine(Protocol):
    """One graph, ready to be called. Loading is explicit, so that a pipeline decides what is in memory when."""

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Returns every output by name. Loads first if need be. Raises ShapeError for feeds that do not fit."""
        ...

    def load(self) -> None:
        """Puts the graph into memory; does nothing when it is there."""
        ...

    def unload(self) -> None:
        """Frees what `load` took; the engine can be loaded again."""
        ...

    def close(self) -> None:
        """Frees everything; for use at the end."""
        ...


@dataclass(frozen=True)
class EngineKind:
    """Where an engine lives: the module with `open_engine`, the package it needs, the extra that installs that."""

    module: str
    requires: str
    extra: str

    @property
    def installed(self) -> bool:
        """Whether the package that runs it can be found."""
        return importlib.util.find_spec(self.requires) is not None


ENGINES = {"cpu": EngineKind("latentrt.engines.onnxruntime", "onnxruntime", "cpu")}


def open_engine(name: str, name_of_component: str, component: Component, folder: Path) -> Engine:
    """Returns an engine of the kind `name` for a component of the bundle in `folder`; nothing is loaded yet.

    Raises EngineError for an unknown name, or one whose package is not installed.
    """
    kind = engine_kind(name)
    opened: Engine = importlib.import_module(kind.module).open_engine(name_of_component, component, folder)
    return opened


def engine_kind(name: str) -> EngineKind:
    """The installed engine of that name. Raises EngineError that says what there is, or what to install."""
    if name not in ENGINES:
        raise EngineError(f"engine: got {name!r}, expected one of {', '.join(ENGINES)}")
    kind = ENGINES[name]
    if not kind.installed:
        raise EngineError(f"engine {name!r} needs {kind.requires}: run `pip install 'latentrt[{kind.extra}]'`")
    return kind
