"""An opened checkpoint, before its tensors are matched with modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentrt_export.checkpoint.family import Family
from latentrt_export.checkpoint.match import ComponentSource


@dataclass(frozen=True)
class OpenedCheckpoint:
    """A checkpoint's family, its data for each component, and its settings.

    tokenizers: tokenizer folders by name. zero_negative: a negative prompt that is not given means zeros.
    declarations: about the schedule, by subject. others: keys of no component.
    """

    family: Family
    sources: Mapping[str, ComponentSource]
    scheduler: dict[str, Any]
    tokenizers: Mapping[str, Path]
    zero_negative: bool
    declarations: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()
