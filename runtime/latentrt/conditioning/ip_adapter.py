"""An image prompt at work: keys and values that the UNet attends to beside the text's.

IP-Adapter, Ye et al. (2023); as diffusers 0.42.1's StableDiffusionPipeline with `load_ip_adapter`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from latentrt.sampling.tiling import Tile
from latentrt.tensors import Array, read_only


@dataclass
class ImagePrompt:
    """What an IP-Adapter makes of an image.

    name: the UNet's input. kv: (2, tokens, K), of the image, and of none, for negative prompts.
    """

    name: str
    kv: Array
    kept: dict[bytes, Array] = field(default_factory=dict)

    def feeds(self, unet: Mapping[str, Array], negative: Array, window: Tile | None) -> dict[str, Array]:
        """The keys and values of every row; kept, so that an engine has them at hand."""
        key = negative.tobytes()
        if key not in self.kept:
            self.kept[key] = read_only(self.kv[negative.astype(int)])
        return {self.name: self.kept[key]}


def scaled(kv: Array, scale: float) -> Array:
    """Keys and values of which the second half, the values, are so strong: attention to them is then as strong."""
    keys, values = np.split(kv, 2, axis=-1)
    return np.concatenate([keys, (np.float32(scale) * values).astype(kv.dtype)], axis=-1)


def side_by_side(found: Sequence[Array], images: int) -> Array:
    """The keys and values of some images, attended to as one: so often each that they are as many as `images`.

    What is there twice has half a share of the attention each time, so repeating all changes nothing.
    """
    joined = found[0] if len(found) == 1 else np.concatenate(found, axis=1)
    return joined if images == len(found) else np.tile(joined, (1, images // len(found), 1))
