"""A T2I-Adapter at work: what it makes of an image, once, is added to the UNet's features on the way down.

Mou et al. (2023); as diffusers 0.42.1's StableDiffusionAdapterPipeline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from latentrt.sampling.tiling import Tile
from latentrt.tensors import Array, read_only


@dataclass
class Adapter:
    """What an adapter makes of an image.

    features: the UNet's inputs, its strength included, (1, channels, rows, columns). sides: how many latents one of
    each covers, a side.
    """

    features: Mapping[str, Array]
    sides: Mapping[str, int]
    kept: dict[int, dict[str, Array]] = field(default_factory=dict)

    def feeds(self, unet: Mapping[str, Array], negative: Array, window: Tile | None) -> dict[str, Array]:
        """The features, the same for every row; kept, so that an engine has them at hand."""
        rows = len(negative)
        if window is not None:
            return {
                name: np.repeat(part(one, window, self.sides[name]), rows, axis=0)
                for name, one in self.features.items()
            }
        if rows not in self.kept:
            self.kept[rows] = {name: read_only(np.repeat(one, rows, axis=0)) for name, one in self.features.items()}
        return self.kept[rows]


def part(features: Array, window: Tile, side: int) -> Array:
    """What a window over latents shows of features; those that it begins in, where it does not begin with any."""
    rows, columns = window
    return features[..., rows[::side] // side, columns[::side] // side]
