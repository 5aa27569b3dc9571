"""The texts in a picture's file by name: PNG text chunks, EXIF, XMP, a JPEG comment."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentrt.errors import RequestError
from latentrt.images.exif import texts_of
from latentrt.images.load import quiet, reason_of

if TYPE_CHECKING:
    from PIL.Image import Image

XMP = ("XML:com.adobe.xmp", "xmp")
XMP_COMMENT = re.compile(r"<exif:UserComment>.{0,200}?<rdf:li[^>]{0,100}>(?P<text>.*?)</rdf:li>", re.DOTALL)


def read_texts(path: Path) -> dict[str, str]:
    """The texts in a picture: PNG chunks by keyword, EXIF and XMP by tag, a JPEG comment as "comment".

    Raises RequestError if the file is not a picture, or is cut short.
    """
    from PIL import Image

    try:
        with quiet(), Image.open(path) as image:
            image.load()  # a PNG's text may follow the pixels
            return texts_in(image)
    except Exception as error:  # Pillow's decoders raise any error for a damaged file
        raise RequestError(f"{path}: not a readable picture ({reason_of(error)})") from error


def texts_in(image: Image) -> dict[str, str]:
    """The texts in a picture that is open, and decoded."""
    return from_exif(image) | from_xmp(image.info) | from_info(image.info)


def from_info(info: dict[Any, Any]) -> dict[str, str]:
    """The texts in Pillow's `info`."""
    found = {str(key): str(value) for key, value in info.items() if isinstance(value, str) and key not in XMP}
    comment = info.get("comment")
    return found | ({"comment": comment.decode("utf-8", "replace")} if isinstance(comment, bytes) else {})


def from_exif(image: Image) -> dict[str, str]:
    """The texts in EXIF; none if it is damaged."""
    try:
        return texts_of(image.getexif())
    except Exception:  # Pillow raises any error for damaged EXIF
        return {}


def from_xmp(info: dict[Any, Any]) -> dict[str, str]:
    """The comment in XMP."""
    for key in XMP:
        packet = info.get(key)
        packet = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else packet
        found = XMP_COMMENT.search(packet) if isinstance(packet, str) else None
        if found:
            return {"UserComment": html.unescape(found["text"])}
    return {}
