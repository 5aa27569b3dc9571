"""ControlNets: called beside the UNet, they make residuals that the UNet adds to its skip connections.

Zhang et al. (2023); as diffusers 0.42.1's StableDiffusionControlNetPipeline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from latentrt.bundle.manifest import Component
from latentrt.conditioning.text import Call
from latentrt.sampling.tiling import Tile
from latentrt.tensors import Array, read_only


@dataclass
class ActiveControlNet:
    """A ControlNet for one run.

    name, component: the network's. short: the name and the component of its short form, for calls of the shallow UNet.
    scale: its strength. hint: its features of the image, (1, channels, rows, columns). guess: see `Request`.
    """

    call: Call
    name: str
    component: Component
    short: tuple[str, Component] | None
    scale: float
    hint: Array
    guess: bool = False
    cache: dict[int, Array] = field(default_factory=dict)

    def feeds(
        self, denoiser: Mapping[str, Array], negative: Array, window: Tile | None, *, shallow: bool
    ) -> dict[str, Array]:
        """The residuals of every row; for a guess, zeros in those of a negative prompt."""
        rows = ~negative if self.guess else np.ones_like(negative)
        if not rows.any():
            return {}
        name, component = self.short if shallow and self.short else (self.name, self.component)
        shared = {spec.name: denoiser[spec.name] for spec in component.inputs if spec.name in denoiser}
        chosen = shared if rows.all() else {key: feed[rows] for key, feed in shared.items()}
        residuals = self.call(name, hint=self.hint_of(int(rows.sum()), window), scales=self.scales(), **chosen)
        return residuals if rows.all() else {key: scattered(array, rows) for key, array in residuals.items()}

    def scales(self) -> Array:
        """The strength of every residual; for a guess, as in diffusers a tenth at the first skip, all in the middle."""
        count = int(self.component.input("scales").shape[0])
        each = np.logspace(-1, 0, count, dtype=np.float32) if self.guess else np.ones(count, np.float32)
        return np.float32(self.scale) * each

    def hint_of(self, rows: int, window: Tile | None) -> Array:
        """The hint repeated for every row; cached, so that an engine has it at hand."""
        if window is not None:
            return np.repeat(self.hint[..., window[0], window[1]], rows, axis=0)
        if rows not in self.cache:
            self.cache[rows] = read_only(np.repeat(self.hint, rows, axis=0))
        return self.cache[rows]


def scattered(array: Array, rows: Array) -> Array:
    """The array's rows where `rows` is true, zeros in the others."""
    whole = np.zeros((len(rows), *array.shape[1:]), array.dtype)
    whole[rows] = array
    return whole
