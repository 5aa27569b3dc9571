"""The control images of a run: the denoiser's inputs that they make, at every call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from latentrt.bundle.manifest import Manifest
from latentrt.conditioning.control_kinds import CONTROL_KINDS, MADE_BY, ActiveControl, Attachment, Feeds
from latentrt.conditioning.text import Call
from latentrt.request.controls import ResolvedControl
from latentrt.sampling.tiling import Tile
from latentrt.tensors import Array, TensorSpec, read_only, shape_of, split_axis


@dataclass
class ControlSet:
    """The controls of one run.

    first: the step that the run begins at. steps: the number of steps from it to the end. guess: see `Request`.
    """

    call: Call
    manifest: Manifest
    first: int = 0
    steps: int = 1
    guess: bool = False
    active: list[tuple[ResolvedControl, ActiveControl]] = field(default_factory=list)
    cache: dict[tuple[str, tuple[int, ...]], Array] = field(default_factory=dict)

    def attach(self, control: ResolvedControl, image: Array) -> None:
        """Calls a control's network with its image, (1, channels, height, width) in [0, 1]; once for all steps."""
        role = self.manifest.components[control.component].role
        kind = CONTROL_KINDS[MADE_BY.get(role, role)]
        self.active.append((control, kind.build(Attachment(self.call, self.manifest, control, image, self.guess))))

    def specs(self, component: str) -> list[TensorSpec]:
        """The inputs of a denoiser that controls make; none where it was exported without any."""
        denoiser = self.manifest.components[component]
        return [spec for spec in denoiser.inputs if denoiser.sources[spec.name].kind == "control"]

    def feeds(
        self,
        step: int,
        denoiser: Feeds,
        negative: Sequence[bool],
        window: Tile | None = None,
        *,
        shallow: str | None = None,
    ) -> dict[str, Array]:
        """The inputs that all active controls make for a call together, zeros without any. See `ActiveControl`.

        shallow: the shallow denoiser where the call is its; None for one of the whole.
        """
        specs = self.specs(shallow or self.manifest.denoiser)
        works = (active for control, active in self.active if control.works(step - self.first, self.steps) and specs)
        made = [active.feeds(denoiser, np.array(negative), window, shallow=shallow is not None) for active in works]
        found = {spec: [one[spec.name] for one in made if spec.name in one] for spec in specs}
        batch, _, height, width = denoiser[self.manifest.sample].shape
        images = math.lcm(*(len(own) for spec, own in found.items() if own and has_images(spec)))
        sizes = {"batch": batch, "height": height, "width": width, "images": images}
        return {spec.name: self.joined(spec, own, sizes) for spec, own in found.items()}

    def joined(self, spec: TensorSpec, arrays: Sequence[Array], sizes: Mapping[str, int]) -> Array:
        """The value of an input that some controls have."""
        if not arrays:
            return self.zeros(spec, shape_of(spec, sizes))
        role = self.manifest.components[self.manifest.denoiser].sources[spec.name].name
        return CONTROL_KINDS[role].join(arrays, sizes["images"])

    def zeros(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        """Zeros of that shape, made once."""
        key = spec.name, shape
        if key not in self.cache:
            self.cache[key] = read_only(np.zeros(shape, spec.dtype))
        return self.cache[key]


def has_images(spec: TensorSpec) -> bool:
    """Whether an input grows with the number of control images."""
    return any(isinstance(axis, str) and split_axis(axis)[1] == "images" for axis in spec.shape)
