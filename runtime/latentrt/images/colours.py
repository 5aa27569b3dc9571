"""Colours of an enlarged picture, corrected by the picture that was enlarged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from latentrt.tensors import Array

if TYPE_CHECKING:
    from PIL.Image import Image


def with_colours_of(made: Image, source: Image) -> Image:
    """Returns `made`, RGB, with the means of `source`: reduced to its size, it is `source` to a grey level or two.

    source: RGB, smaller by a whole factor. The difference of the reduced picture is enlarged by bicubic interpolation
    and added: one step of back-projection, Irani and Peleg (1991), "Improving Resolution by Image Registration", eq. 3.
    """
    from PIL import Image as images

    found: Array = np.asarray(made, np.float32)
    reduced = resized(found, source.size, images.Resampling.BOX)
    missing = resized(np.asarray(source, np.float32) - reduced, made.size, images.Resampling.BICUBIC)
    return images.fromarray((found + missing).round().clip(0, 255).astype(np.uint8))


def resized(pixels: Array, size: tuple[int, int], way: int) -> Array:
    """The pixels, (height, width, channels) float32 of any range, at another size (width, height)."""
    from PIL import Image as images

    planes = (images.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(pixels, -1, 0))
    return np.stack([np.asarray(plane.resize(size, way)) for plane in planes], -1)
