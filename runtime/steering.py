"""Control networks at work: at every call of the UNet, the residuals that it adds to its skips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from latentrt.conditioning import Call
from latentrt.control import Settled
from latentrt.guidance import sum_of
from latentrt.manifest import CONTROL, HINT, Component
from latentrt.tensors import Array, TensorSpec, shape_of
from latentrt.windows import Window

Feeds = Mapping[str, Array]


@dataclass
class Steering:
    """What steers the UNet in one run.

    first: the step that the run begins at. steps: how many there are from it to the end. guess: see `Request`. hints:
    what each control's network sees of its image, (1, channels, rows, columns).
    """

    call: Call
    components: Mapping[str, Component]
    controls: Sequence[Settled] = ()
    first: int = 0
    steps: int = 1
    guess: bool = False
    hints: list[Array] = field(default_factory=list)
    kept: dict[tuple[str | int, tuple[int, ...]], Array] = field(default_factory=dict)

    def see(self, image: Array) -> None:
        """Has the next control's network see its image, (1, 3, height, width) in [0, 1]; that goes for all steps."""
        name = self.controls[len(self.hints)].name
        self.hints.append(self.call(HINT + name, image=image)["hint"])

    @property
    def specs(self) -> list[TensorSpec]:
        """What the UNet takes of control networks; nothing where it was exported without any."""
        networks = (one for name, one in self.components.items() if name.startswith(CONTROL))
        made = {spec.name for network in networks for spec in network.outputs}
        return [spec for spec in self.components["unet"].inputs if spec.name in made]

    def residuals(
        self, step: int, feeds: Feeds, negative: Sequence[bool], window: Window | None = None
    ) -> dict[str, Array]:
        """What all controls together add in a call of the UNet, by its inputs' names; zeros where none works.

        feeds: the latents, and the UNet's other inputs. negative: of each row, whether it is a negative prompt's.
        window: the part of the picture that the latents are, None for all of it.
        """
        rows = np.array([not (self.guess and one) for one in negative])
        working = [place for place, one in enumerate(self.controls) if one.works(step - self.first, self.steps)]
        found = [self.made_by(place, feeds, rows, window) for place in working if rows.any()]
        if found:
            return {name: sum_of([(1, one[name]) for one in found]) for name in found[0]}
        batch, _, height, width = feeds["sample"].shape
        sizes = {"batch": batch, "height": height, "width": width}
        return {spec.name: self.zeros(spec, shape_of(spec, sizes)) for spec in self.specs}

    def made_by(self, place: int, feeds: Feeds, rows: Array, window: Window | None) -> dict[str, Array]:
        """The residuals of the control at that place, zeros but in `rows`."""
        control = self.controls[place]
        name, asked = CONTROL + control.name, feeds if rows.all() else {key: feed[rows] for key, feed in feeds.items()}
        [count] = (spec.shape[0] for spec in self.components[name].inputs if spec.name == "scales")
        # As diffusers: a tenth at the first skip, all of it in the middle.
        scales = np.logspace(-1, 0, int(count), dtype=np.float32) if self.guess else np.ones(int(count), np.float32)
        hint = self.hint(place, int(rows.sum()), window)
        residuals = self.call(name, hint=hint, scales=np.float32(control.scale) * scales, **asked)
        return residuals if rows.all() else {key: spread(array, rows) for key, array in residuals.items()}

    def hint(self, place: int, rows: int, window: Window | None) -> Array:
        """What a control's network sees, as often as there are rows; kept, so that an engine has it at hand."""
        if window is not None:
            return np.repeat(self.hints[place][..., window[0], window[1]], rows, axis=0)
        key = place, (rows,)
        if key not in self.kept:
            self.kept[key] = np.repeat(self.hints[place], rows, axis=0)
            self.kept[key].flags.writeable = False
        return self.kept[key]

    def zeros(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        """Zeros of that shape, made once."""
        key = spec.name, shape
        if key not in self.kept:
            self.kept[key] = np.zeros(shape, spec.dtype)
            self.kept[key].flags.writeable = False
        return self.kept[key]


def spread(array: Array, rows: Array) -> Array:
    """The array's rows where `rows` says, zeros in the others."""
    whole = np.zeros((len(rows), *array.shape[1:]), array.dtype)
    whole[rows] = array
    return whole
