"""Networks that are exported beside a checkpoint, each with its name in requests."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from latentrt.errors import CheckpointError

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class NamedNetwork:
    """A ControlNet, T2I-Adapter or IP-Adapter: its name in requests, and its path."""

    name: str
    path: Path


def check_names(networks: Iterable[NamedNetwork]) -> None:
    """Raises CheckpointError for an invalid name, and for a name that two networks share."""
    names = set[str]()
    for network in networks:
        if not NAME.fullmatch(network.name) or network.name in names:
            raise CheckpointError(
                f"got the name {network.name!r} for {network.path}, expected one of its own in small letters, digits, "
                "- and _, such as canny=FOLDER"
            )
        names.add(network.name)
