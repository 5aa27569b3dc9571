"""Images that steer a picture through the networks of a bundle: which, how strongly, at which steps.

All as in diffusers 0.42.1's pipelines; see `latentrt.conditioning.control` for what comes of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from latentrt.bundle.manifest import Manifest
from latentrt.bundle.sources import Role
from latentrt.errors import RequestError
from latentrt.images.load import open_image
from latentrt.images.pillow import digest, resized, squared
from latentrt.request.control import Control
from latentrt.validate import number, shown, text

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentrt.request.init_image import Source


@dataclass(frozen=True)
class Settled(Control):
    """A control with every choice checked against the bundle.

    image: in the mode that its network takes, of any size. component, role: those of the network that takes it. side:
    of the square, in pixels, that it takes; None where that is the picture's size.
    """

    image: Image = field(repr=False)
    component: str = field(kw_only=True)
    role: Role = field(kw_only=True)
    side: int | None = field(default=None, kw_only=True)

    def works(self, step: int, steps: int) -> bool:
        """Whether it has a say in a step."""
        return self.scale != 0 and step / steps >= self.start and (step + 1) / steps <= self.end

    def framed(self, width: int, height: int, source: Source | None) -> Image:
        """The image as it is seen: at the picture's size as the image that the run starts from is brought there, if
        there is one, or a square."""
        if self.side is not None:
            return squared(self.image, self.side)
        return source.framed(self.image, width, height) if source else resized(self.image, width, height)

    def record(self) -> dict[str, Any]:
        """What a picture says of it, as JSON can hold it; of the image, what tells it from others."""
        shares = {"scale": self.scale, "start": self.start, "end": self.end}
        return {"name": self.name, **shares, "image": digest(self.image)}


def controls_of(asked: Sequence[Control], manifest: Manifest) -> tuple[Settled, ...]:
    """The controls, their images opened. Raises RequestError for what cannot be."""
    if not isinstance(asked, Sequence) or not all(isinstance(one, Control) for one in asked):
        raise RequestError(f"controls: got {shown(asked)}, expected a list of latentrt.Control")
    return tuple(settled(control, manifest) for control in asked)


def settled(control: Control, manifest: Manifest) -> Settled:
    """The control with its image opened. Raises RequestError for what cannot be."""
    name = text("controls", control.name)
    if name not in manifest.controls:
        known = f"one of {', '.join(manifest.controls)}" if manifest.controls else "none of them"
        raise RequestError(
            f"controls: got {name!r}, but {manifest.name} has {known}; add it with `latentrt export --controlnet"
            f" {name}=PATH`, `--t2i-adapter {name}=PATH` or `--ip-adapter {name}=PATH`"
        )
    where = f"control {name}"
    start, end = (number(f"{where}: {share}", getattr(control, share), 0, 1) for share in ("start", "end"))
    if start >= end:
        raise RequestError(f"{where}: got a start of {start:g} and an end of {end:g}, expected the end after the start")
    scale = number(f"{where}: scale", control.scale, -math.inf, math.inf)
    component = manifest.controls[name]
    [shape] = (spec.shape for spec in manifest.components[component].inputs if spec.name == "image")
    image = open_image(where, control.image, "L" if shape[1] == 1 else "RGB")
    side = shape[-1] if isinstance(shape[-1], int) else None
    role = manifest.components[component].role
    return Settled(name, image, scale, start, end, component=component, role=role, side=side)
