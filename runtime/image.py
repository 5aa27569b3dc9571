"""Arrays to pictures and PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latentrt.atomic import new_file
from latentrt.errors import OutputError
from latentrt.tensors import Array

if TYPE_CHECKING:
    from PIL.Image import Image


def to_images(pixels: Array) -> tuple[Image, ...]:
    """RGB images from (batch, 3, height, width) in [-1, 1]; rounded to 8 bits as diffusers' VaeImageProcessor does."""
    from PIL import Image

    scaled = np.clip(pixels.astype(np.float32) / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
    return tuple(Image.fromarray(image) for image in (scaled * 255).round().astype(np.uint8))


def preview_image(latents: Array, to_rgb: Sequence[tuple[float, float, float]]) -> Image:
    """A small RGB image from one image's latents (channels, height, width): a linear map, the last row constant."""
    weights = np.asarray(to_rgb, np.float32)
    rgb = np.einsum("chw,cr->rhw", latents.astype(np.float32), weights[:-1]) + weights[-1][:, None, None]
    return to_images(rgb[None])[0]


def save_png(image: Image, path: Path, text: Mapping[str, str]) -> None:
    """Writes `image` with text chunks, whole or not at all. Raises OutputError when it cannot be written there."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    try:
        with new_file(path) as temporary:
            image.save(temporary, format="PNG", pnginfo=info)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"{path}: cannot be written ({reason}); name a file in a folder that exists") from error
