"""IP-Adapters: an image prompts the UNet by keys and values that it attends to besides those of the text.

Ye et al. (2023); as diffusers 0.42.1's StableDiffusionPipeline with `load_ip_adapter`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from latentrt.sampling.tiling import Tile
from latentrt.tensors import Array, read_only


@dataclass
class ActiveImagePrompt:
    """An image prompt for one run.

    name: the UNet's input. kv: (2, tokens, K), of the image, and of no image for negative prompts.
    """

    name: str
    kv: Array
    cache: dict[bytes, Array] = field(default_factory=dict)

    def feeds(
        self, denoiser: Mapping[str, Array], negative: Array, window: Tile | None, *, shallow: bool
    ) -> dict[str, Array]:
        """The keys and values of every row; cached, so that an engine has them at hand."""
        key = negative.tobytes()
        if key not in self.cache:
            self.cache[key] = read_only(self.kv[negative.astype(int)])
        return {self.name: self.cache[key]}


def scaled(kv: Array, scale: float) -> Array:
    """Keys and values with the second half, the values, multiplied by the scale: so is the result of attention."""
    keys, values = np.split(kv, 2, axis=-1)
    return np.concatenate([keys, (np.float32(scale) * values).astype(kv.dtype)], axis=-1)


def concatenated(arrays: Sequence[Array], images: int) -> Array:
    """The tokens of several images, attended to as one; all are repeated until there are those of `images`.

    Repeating all tokens changes nothing: each of two copies gets half of the attention.
    """
    joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=1)
    return joined if images == len(arrays) else np.tile(joined, (1, images // len(arrays), 1))
