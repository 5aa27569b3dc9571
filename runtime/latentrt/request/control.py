"""Images that steer a picture, as they are asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Control:
    """An image that steers the picture through one of the bundle's ControlNets, T2I-Adapters or IP-Adapters.

    name: the network's. image: what it was trained to see, edges or depths for example, or its file; brought to the
    picture's size. For an IP-Adapter any image, cut to a square. scale: how strongly. start, end: the share of the
    steps at which it begins and ends, 0 to 1.
    """

    name: str
    image: str | Path | Image = field(repr=False)
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
