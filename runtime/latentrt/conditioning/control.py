"""Images that steer a picture, at work: at every call of the UNet, what it takes besides latents, time and text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from latentrt.bundle.manifest import HINT, IMAGE_ENCODER, IMAGE_KV, Component
from latentrt.conditioning.controlnet import ControlNetwork
from latentrt.conditioning.ip_adapter import ImagePrompt, scaled, side_by_side
from latentrt.conditioning.t2i_adapter import Adapter
from latentrt.conditioning.text import Call
from latentrt.request.controls import ResolvedControl
from latentrt.sampling.guidance import sum_of
from latentrt.sampling.tiling import Tile
from latentrt.tensors import Array, TensorSpec, read_only, shape_of, split_axis

Feeds = Mapping[str, Array]
# What every UNet takes.
USUAL = ("sample", "time_bias", "cross_kv")


class Steerer(Protocol):
    """An image at work."""

    def feeds(self, unet: Feeds, negative: Array, window: Tile | None) -> Feeds:
        """What it has the UNet take in a call, by the names of inputs, a row for each of the call's.

        unet: the latents, and the UNet's other inputs. negative: of each row, whether it is a negative prompt's.
        window: the part of the picture that the latents are, None for all of it.
        """


@dataclass
class Steering:
    """What steers the UNet in one run.

    first: the step that the run begins at. steps: how many there are from it to the end. guess: see `Request`.
    """

    call: Call
    components: Mapping[str, Component]
    first: int = 0
    steps: int = 1
    guess: bool = False
    seen: list[tuple[ResolvedControl, Steerer]] = field(default_factory=list)
    kept: dict[tuple[str, tuple[int, ...]], Array] = field(default_factory=dict)

    def see(self, control: ResolvedControl, image: Array) -> None:
        """Has a control's network see its image, (1, channels, height, width) in [0, 1]; that goes for all steps."""
        self.seen.append((control, self.steerer(control, image)))

    def steerer(self, control: ResolvedControl, image: Array) -> Steerer:
        """A control at work, after its component has seen the image."""
        if control.component == IMAGE_ENCODER:
            name, shown = IMAGE_KV + control.name, np.array([1, 0], image.dtype)
            seen = self.call(IMAGE_ENCODER, image=np.concatenate([image, image]), shown=shown)
            return ImagePrompt(name, scaled(seen[name], control.scale))
        seen = self.call(control.component, image=image)
        if control.component.startswith(HINT):
            return ControlNetwork(self.call, self.components, control, seen["hint"], guess=self.guess)
        features = {name: (np.float32(control.scale) * array).astype(array.dtype) for name, array in seen.items()}
        sides = {spec.name: latents_of(spec) for spec in self.components[control.component].outputs}
        return Adapter(features, sides)

    @property
    def specs(self) -> list[TensorSpec]:
        """What the UNet takes of images; nothing where it was exported without any."""
        return [spec for spec in self.components["unet"].inputs if spec.name not in USUAL]

    def feeds(self, step: int, unet: Feeds, negative: Sequence[bool], window: Tile | None = None) -> Feeds:
        """What all controls together have the UNet take in a call; zeros where none works. See `Steerer`."""
        works = (steerer for control, steerer in self.seen if control.works(step - self.first, self.steps))
        made = [steerer.feeds(unet, np.array(negative), window) for steerer in works]
        found = {spec: [one[spec.name] for one in made if spec.name in one] for spec in self.specs}
        batch, _, height, width = unet["sample"].shape
        images = math.lcm(*(len(own) for spec, own in found.items() if own and spec.name.startswith(IMAGE_KV)))
        sizes = {"batch": batch, "height": height, "width": width, "images": images}
        return {spec.name: self.joined(spec, own, sizes) for spec, own in found.items()}

    def joined(self, spec: TensorSpec, found: Sequence[Array], sizes: Mapping[str, int]) -> Array:
        """What some controls have for an input, together."""
        if not found:
            return self.zeros(spec, shape_of(spec, sizes))
        if spec.name.startswith(IMAGE_KV):
            return side_by_side(found, sizes["images"])
        return sum_of([(1, one) for one in found])

    def zeros(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        """Zeros of that shape, made once."""
        key = spec.name, shape
        if key not in self.kept:
            self.kept[key] = read_only(np.zeros(shape, spec.dtype))
        return self.kept[key]


def latents_of(spec: TensorSpec) -> int:
    """How many latents, a side, one of the features covers."""
    factor, _ = split_axis(str(spec.shape[-1]))
    return factor.denominator
