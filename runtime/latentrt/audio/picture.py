"""Amplitudes to the pixels of a Riffusion spectrogram, and back: loud is dark, time runs right, frequency runs up.

As riffusion 0.0.5's image_util: a mono picture is read from its red channel; a stereo picture has the left channel in
green and the right one in blue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from latentrt.audio.parameters import FEWEST_COLUMNS, MOST_COLUMNS, POWER, Parameters
from latentrt.errors import RequestError
from latentrt.tensors import Array

if TYPE_CHECKING:
    from PIL.Image import Image

BLACK = 30e6  # the amplitude of a black pixel; any other gives the same sound


def picture_from_amplitudes(amplitudes: Array) -> Image:
    """The RGB picture of amplitudes (channels, columns, bands), one channel or two.

    Darkness is the fourth root of amplitude / largest amplitude. Grey values are truncated, not rounded. Silence is
    white.
    """
    from PIL import Image

    relative = amplitudes / (amplitudes.max() or 1)
    grey = (255 - 255 * relative**POWER).astype(np.uint8).transpose(0, 2, 1)[:, ::-1]
    planes = (grey[0], grey[0], grey[0]) if len(grey) == 1 else (np.zeros_like(grey[0]), grey[0], grey[1])
    return Image.fromarray(np.stack(planes, axis=-1))


def joined(pictures: Sequence[Image]) -> Image:
    """RGB pictures of equal height side by side, as one: the phases of its sound continue across the seams."""
    from PIL import Image

    return Image.fromarray(np.concatenate([np.asarray(picture.convert("RGB")) for picture in pictures], axis=1))


def check_columns(columns: int) -> None:
    """Raises RequestError for a picture that is too narrow or too wide to make a sound of."""
    if not FEWEST_COLUMNS <= columns <= MOST_COLUMNS:
        raise RequestError(
            f"picture: got {columns} columns of 10 ms, expected {FEWEST_COLUMNS} to {MOST_COLUMNS}; "
            "crop it, or make a wider one"
        )


def amplitudes_from_picture(image: Image, parameters: Parameters) -> Array:
    """The amplitudes, (channels, columns, bands) float32 from 0 to 30e6, of an RGB picture.

    Raises RequestError for a picture of another height than the bands, and for one that is too narrow or too wide.
    """
    if image.height != parameters.bands:
        raise RequestError(
            f"picture: got {image.height} rows, expected {parameters.bands}, one per mel band; use --bands "
            f"{image.height} if the picture has that many"
        )
    check_columns(image.width)
    pixels = np.asarray(image, np.float32)[::-1].transpose(2, 1, 0)
    planes = pixels[1:3] if parameters.stereo else pixels[:1]
    return ((255 - planes) / 255) ** np.float32(1 / POWER) * np.float32(BLACK)
