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
from latentrt.images.pillow import digest, resized, square_crop
from latentrt.request.control import Control
from latentrt.request.request import Request
from latentrt.request.rows import checked
from latentrt.validate import number, shown, text

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentrt.request.init_image import InitImage


@dataclass(frozen=True)
class ResolvedControl(Control):
    """A control with every choice checked against the bundle.

    image: in the mode that its network takes, of any size. component, role: those of the network that takes it. side:
    of the square, in pixels, that it takes; None where that is the picture's size.
    """

    image: Image = field(repr=False)
    component: str = field(kw_only=True)
    role: Role = field(kw_only=True)
    side: int | None = field(default=None, kw_only=True)

    def works(self, step: int, steps: int) -> bool:
        """True if the control is active in a step."""
        return self.scale != 0 and step / steps >= self.start and (step + 1) / steps <= self.end

    def fit_to(self, width: int, height: int, init_image: InitImage | None) -> Image:
        """The image as it is seen: at the picture's size as the image that the run starts from is brought there, if
        there is one, or a square."""
        if self.side is not None:
            return square_crop(self.image, self.side)
        return init_image.fit_to(self.image, width, height) if init_image else resized(self.image, width, height)

    def record(self) -> dict[str, Any]:
        """The control for a picture's metadata, as JSON; of the image, what tells it from others."""
        shares = {"scale": self.scale, "start": self.start, "end": self.end}
        return {"name": self.name, **shares, "image": digest(self.image)}


@dataclass(frozen=True)
class ControlsSpec:
    """The images that steer a picture. guess: ControlNets leave the negative prompt alone."""

    images: tuple[ResolvedControl, ...] = ()
    guess: bool = False

    def record(self) -> dict[str, Any]:
        """The fields of the request that make this again; images by their hash. Nothing without controls."""
        return {"controls": [one.record() for one in self.images], "guess": self.guess} if self.images else {}


def resolve_controls(request: Request, manifest: Manifest) -> ControlsSpec:
    """The request's controls, their images opened. Raises RequestError."""
    controls, guess = request.controls, checked(request, "guess")
    if not isinstance(controls, Sequence) or not all(isinstance(one, Control) for one in controls):
        raise RequestError(f"controls: got {shown(controls)}, expected a list of latentrt.Control")
    images = tuple(resolve_control(control, manifest) for control in controls)
    if guess and not any(control.role == "controlnet_hint" for control in images):
        raise RequestError("guess: got it without a ControlNet; give an image for one too")
    return ControlsSpec(images, guess)


def check_padding(controls: ControlsSpec, init_image: InitImage | None) -> None:
    """Raises RequestError for controls that cannot be cut with the init image, where only its mask is generated."""
    if init_image is None or init_image.mask is None or init_image.mask.padding is None:
        return
    for control in controls.images:
        if control.side is None and control.image.size != init_image.image.size:
            sizes = ["x".join(map(str, one.size)) for one in (control.image, init_image.image)]
            raise RequestError(
                f"control {control.name}: got {sizes[0]} pixels, expected {sizes[1]}, the init's, with mask_padding"
            )


def resolve_control(control: Control, manifest: Manifest) -> ResolvedControl:
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
    return ResolvedControl(name, image, scale, start, end, component=component, role=role, side=side)
