"""A ControlNet at work: called beside the UNet, it makes the residuals that this adds to its skips.

Zhang et al. (2023); as diffusers 0.42.1's StableDiffusionControlNetPipeline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from latentrt.bundle.manifest import CONTROL, Component
from latentrt.conditioning.text import Call
from latentrt.request.controls import ResolvedControl
from latentrt.sampling.tiling import Tile
from latentrt.tensors import Array, read_only


@dataclass
class ControlNetwork:
    """What a control network, its strength included, makes of an image.

    hint: what it sees of the image, (1, channels, rows, columns). guess: see `Request`.
    """

    call: Call
    components: Mapping[str, Component]
    control: ResolvedControl
    hint: Array
    guess: bool = False
    kept: dict[int, Array] = field(default_factory=dict)

    def feeds(self, unet: Mapping[str, Array], negative: Array, window: Tile | None) -> dict[str, Array]:
        """The residuals of every row; for a guess, none of a negative prompt's."""
        rows = ~negative if self.guess else np.ones_like(negative)
        if not rows.any():
            return {}
        name = CONTROL + self.control.name
        asked = unet if rows.all() else {key: feed[rows] for key, feed in unet.items()}
        residuals = self.call(name, hint=self.seen(int(rows.sum()), window), scales=self.scales(name), **asked)
        return residuals if rows.all() else {key: spread(array, rows) for key, array in residuals.items()}

    def scales(self, name: str) -> Array:
        """The strength of every residual; for a guess, as in diffusers a tenth at the first skip, all in the middle."""
        [count] = (int(spec.shape[0]) for spec in self.components[name].inputs if spec.name == "scales")
        each = np.logspace(-1, 0, count, dtype=np.float32) if self.guess else np.ones(count, np.float32)
        return np.float32(self.control.scale) * each

    def seen(self, rows: int, window: Tile | None) -> Array:
        """What it sees of the image, as often as there are rows; kept, so that an engine has it at hand."""
        if window is not None:
            return np.repeat(self.hint[..., window[0], window[1]], rows, axis=0)
        if rows not in self.kept:
            self.kept[rows] = read_only(np.repeat(self.hint, rows, axis=0))
        return self.kept[rows]


def spread(array: Array, rows: Array) -> Array:
    """The array's rows where `rows` says, zeros in the others."""
    whole = np.zeros((len(rows), *array.shape[1:]), array.dtype)
    whole[rows] = array
    return whole
