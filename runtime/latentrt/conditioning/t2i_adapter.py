"""T2I-Adapters: features of an image, computed once, that the UNet adds to its own on the way down.

Mou et al. (2023); as diffusers 0.42.1's StableDiffusionAdapterPipeline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from latentrt.sampling.tiling import Tile
from latentrt.tensors import Array, TensorSpec, read_only, split_axis


@dataclass
class ActiveT2IAdapter:
    """A T2I-Adapter for one run.

    features: the UNet's inputs times the strength, (1, channels, rows, columns). strides: latents per feature along
    each side, by input.
    """

    features: Mapping[str, Array]
    strides: Mapping[str, int]
    cache: dict[int, dict[str, Array]] = field(default_factory=dict)

    def feeds(
        self, denoiser: Mapping[str, Array], negative: Array, window: Tile | None, *, shallow: bool
    ) -> dict[str, Array]:
        """The features, the same for every row; cached, so that an engine has them at hand."""
        rows = len(negative)
        if window is not None:
            return {
                name: np.repeat(cropped(one, window, self.strides[name]), rows, axis=0)
                for name, one in self.features.items()
            }
        if rows not in self.cache:
            self.cache[rows] = {name: read_only(np.repeat(one, rows, axis=0)) for name, one in self.features.items()}
        return self.cache[rows]


def cropped(features: Array, window: Tile, stride: int) -> Array:
    """The features of a window over latents; where it begins inside a feature, from that feature on."""
    rows, columns = window
    return features[..., rows[::stride] // stride, columns[::stride] // stride]


def latents_per_feature(spec: TensorSpec) -> int:
    """The number of latents along each side that one feature covers."""
    factor, _ = split_axis(str(spec.shape[-1]))
    return factor.denominator
