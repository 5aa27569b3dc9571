"""What opening a checkpoint finds, before its tensors are held against modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentrt_export.checkpoint.families import Family
from latentrt_export.checkpoint.match import ComponentSource


@dataclass(frozen=True)
class OpenedCheckpoint:
    """A checkpoint's family, what it has for each component, and its settings.

    tokenizers: its tokenizer folders by their names. zero_negative: whether no negative prompt means zeros. said: what
    it declares of its schedule, by name. others: the keys that are of no component.
    """

    family: Family
    sources: Mapping[str, ComponentSource]
    scheduler: dict[str, Any]
    tokenizers: Mapping[str, Path]
    zero_negative: bool
    said: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()
