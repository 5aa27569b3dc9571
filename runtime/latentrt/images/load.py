"""Input images, files or Pillow's, of any mode: made upright with 8 bits per channel, or refused with one clear error.

Only the first of several frames is read. Pillow's warnings are dropped: a user cannot act on them.
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
# All threads share Python's warning filters.
FILTERS = threading.Lock()


@contextmanager
def quiet() -> Iterator[None]:
    """Drops warnings, even if a filter makes them errors."""
    with FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_image(name: str, source: str | Path | Image, mode: str = "RGB") -> Image:
    """The image in a file, or `source` itself, upright, in Pillow's mode "RGB", "L" or "RGBA".

    Only "RGBA" keeps transparency. Its EXIF orientation is applied, as in diffusers' `load_image`. 16 bits are scaled
    to 8, floats from [0, 1]. Raises RequestError that begins with `name` for anything but an image, a damaged one,
    values out of range, or a file with more pixels than Pillow opens (178,956,970, unless PIL.Image.MAX_IMAGE_PIXELS is
    set).
    """
    from PIL import Image

    if not isinstance(source, (str, os.PathLike, Image.Image)):
        raise RequestError(
            f"{name}: got {shown(source)}, expected an image or the path of its file; PIL.Image.fromarray makes an "
            "image of an array"
        )
    try:
        with quiet():
            if isinstance(source, Image.Image):
                return converted(name, upright(source), mode)
            with Image.open(source) as image:
                return converted(name, upright(image), mode)
    except (RequestError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise any error for a damaged file
        which = "the image given" if isinstance(source, Image.Image) else source
        raise RequestError(f"{name}: {which} is not a readable image ({reason_of(error)})") from error


def reason_of(error: Exception) -> str:
    """Reason that an image cannot be read, in one line."""
    from PIL import Image

    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels; make it smaller"
    reason = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return reason.splitlines()[0]


def upright(image: Image) -> Image:
    """The image with its EXIF orientation applied; unchanged if the EXIF is damaged."""
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
    except Exception:  # any error again: damaged EXIF is no reason to refuse a picture
        turn = None
    if turn is None:
        return image
    turned = image.transpose(turn)
    for key in EXIF_KEYS:  # other readers would turn the image again
        turned.info.pop(key, None)
    return turned


def converted(name: str, image: Image, mode: str) -> Image:
    """The image with 8 bits per channel, in Pillow's mode "RGB", "L" or "RGBA"."""
    if image.mode.startswith(("I", "F")):  # Pillow clips values above 255 instead of scaling them
        return scaled(name, image).convert(mode)
    if image.mode == "LAB":
        return from_lab(image).convert(mode)
    return (image.convert("LA") if image.mode == "La" else image).convert(mode)  # Pillow has no direct conversion


def scaled(name: str, image: Image) -> Image:
    """A grey image of 8 bits from one of 16 bits, where white is 65535, or of floats, where white is 1.

    Raises RequestError for values out of that range.
    """
    from PIL import Image as images

    values = np.asarray(image).astype(np.float64)
    white = 1 if image.mode == "F" else LARGEST_16_BITS
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= white):  # NaN fails too
        raise RequestError(
            f"{name}: got an image of mode {image.mode} with values from {low:g} to {high:g}, expected 0 to {white}; "
            "save it with 8 bits per channel"
        )
    return images.fromarray(np.rint(values / white * 255).astype(np.uint8))


def from_lab(image: Image) -> Image:
    """An RGB image from a CIELAB one."""
    from PIL import ImageCms

    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    found = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
    assert found is not None  # None is for conversion in place
    return found
