"""What is exported beside a checkpoint under a name of its own, by which requests then ask for it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from latentrt.errors import CheckpointError

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class NamedNetwork:
    """What images steer the UNet by: where it is, and the name that requests will call it by."""

    name: str
    path: Path


def check_names(networks: Iterable[NamedNetwork]) -> None:
    """Raises CheckpointError for a name that is none, or that two networks have, of whatever kind they are."""
    names = set[str]()
    for network in networks:
        if not NAME.fullmatch(network.name) or network.name in names:
            raise CheckpointError(
                f"got the name {network.name!r} for {network.path}, expected one of its own in small letters, digits, "
                "- and _, such as canny=FOLDER"
            )
        names.add(network.name)
