"""Images that are given, files or Pillow's, in whatever mode and state: upright, 8 bits a channel, or one clear error.

Of several frames the first is taken. What Pillow warns of is taken without a word: a user cannot act on it.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latentrt.errors import RequestError
from latentrt.validate import shown

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION = 0x0112  # the EXIF tag
EXIF_KEYS = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
LARGEST_16_BITS = 65535
# Python's filters of warnings are one for all threads.
FILTERS = threading.Lock()


@contextmanager
def quiet() -> Iterator[None]:
    """Drops warnings, also where they are errors."""
    with FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_image(name: str, source: str | Path | Image, mode: str = "RGB") -> Image:
    """The image in a file, or the one given, upright, in Pillow's mode "RGB" or "L"; any transparency is dropped.

    Turned as its EXIF says, as diffusers' `load_image` does. 16 bits are scaled to 8, floats from [0, 1]. Raises
    RequestError that begins with `name` for what is no image, damaged, of other floats or integers, or a file of more
    pixels than Pillow opens (178,956,970, unless PIL.Image.MAX_IMAGE_PIXELS is set).
    """
    from PIL import Image

    if not isinstance(source, (str, os.PathLike, Image.Image)):
        raise RequestError(
            f"{name}: got {shown(source)}, expected an image or the path of its file; PIL.Image.fromarray makes an "
            "image of an array"
        )
    given = isinstance(source, Image.Image)
    try:
        with quiet():
            if isinstance(source, Image.Image):
                return converted(name, upright(source), mode)
            with Image.open(source) as image:
                return converted(name, upright(image), mode)
    except (RequestError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them run into
        raise RequestError(
            f"{name}: {'the image given' if given else source} is not a readable image ({reason_of(error)})"
        ) from error


def reason_of(error: Exception) -> str:
    """Reason that an image cannot be read, in one line."""
    from PIL import Image

    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels; make it smaller"
    said = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return said.splitlines()[0]


def upright(image: Image) -> Image:
    """The image as its EXIF says that it is seen; as it is where the EXIF is damaged."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    image.load()
    try:
        turn = turns.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # as above: no picture is refused for what its camera wrote
        turn = None
    if turn is None:
        return image
    turned = image.transpose(turn)
    for key in EXIF_KEYS:  # which would turn it once more
        turned.info.pop(key, None)
    return turned


def converted(name: str, image: Image, mode: str) -> Image:
    """The image with 8 bits a channel, in Pillow's mode "RGB" or "L"."""
    if image.mode.startswith(("I", "F")):  # Pillow cuts what is above 255, and does not scale it
        return scaled(name, image).convert(mode)
    if image.mode == "LAB":
        return from_lab(image).convert(mode)
    return (image.convert("LA") if image.mode == "La" else image).convert(mode)  # Pillow knows no shorter way


def scaled(name: str, image: Image) -> Image:
    """A grey image of 8 bits from one of 16, whose white is 65535, or of floats, whose white is 1.

    Raises RequestError for values beyond that.
    """
    from PIL import Image as images

    values = np.asarray(image).astype(np.float64)
    white = 1 if image.mode == "F" else LARGEST_16_BITS
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= white):  # not a number is not either
        raise RequestError(
            f"{name}: got an image of mode {image.mode} with values from {low:g} to {high:g}, expected 0 to {white}; "
            "save it with 8 bits a channel"
        )
    return images.fromarray(np.rint(values / white * 255).astype(np.uint8))


def from_lab(image: Image) -> Image:
    """An RGB image from one of CIELAB."""
    from PIL import ImageCms

    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    found = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
    assert found is not None  # as it is not made in place
    return found
