"""Images that clients send: as data URLs, as base64, or as bytes; never as a path or an address."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from typing import Any

from PIL import Image

from latentrt.errors import RequestError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def image_of(name: str, value: Any, most_pixels: int) -> Image.Image:
    """The image in a data URL or in base64. Raises RequestError for anything else, and for one of too many pixels."""
    return decoded_image(name, bytes_of(name, value), most_pixels)


def bytes_of(name: str, value: Any) -> bytes:
    """The bytes of a data URL or of base64 text."""
    if not isinstance(value, str):
        raise RequestError(f"{name}: got {type(value).__name__}, expected a data URL or base64 text")
    head, comma, body = value.partition(",")
    if head.startswith(("http:", "https:", "file:")) or (comma and not head.startswith("data:")):
        raise RequestError(f"{name}: got an address, expected a data URL or base64 text; this server fetches nothing")
    if comma and not head.endswith(";base64"):
        raise RequestError(f"{name}: got a data URL without base64, expected data:image/png;base64,...")
    try:
        return base64.b64decode(body if comma else value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"{name}: got text that is no base64 ({error}), expected a data URL or base64") from error


def decoded_image(name: str, data: bytes, most_pixels: int) -> Image.Image:
    """The image in the bytes of a file, decoded. Raises RequestError, before it is decoded, for too many pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > most_pixels:
                raise RequestError(
                    f"{name}: got {image.width}x{image.height} pixels, expected at most {most_pixels:,} in all"
                )
            image.load()
    except RequestError:
        raise
    except Exception as error:  # Pillow raises errors of many kinds for files that are damaged
        raise RequestError(
            f"{name}: got {len(data):,} bytes that are no image which can be read; expected one of {', '.join(FORMATS)}"
        ) from error
    return image
