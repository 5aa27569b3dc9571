"""Generation data in EXIF: the user's comment, as AUTOMATIC1111 writes it, and the maker's note.

JPEG and WebP have no text chunks. Pillow writes both tags with a number's type, which other readers do not recognise
as a comment, so the block is built here: Exif 2.3, section 4.6.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Exif

EXIF_IFD, USER_COMMENT, MAKER_NOTE = 0x8769, 0x9286, 0x927C
LONG, UNDEFINED = 4, 7
UNICODE, ASCII, JIS, UNKNOWN = b"UNICODE\0", b"ASCII\0\0\0", b"JIS\0\0\0\0\0", b"\0" * 8
# Tags of the first directory that tools write to, and their names here.
PLAIN = {0x010E: "Description", 0x010F: "Make", 0x0110: "Model", 0x0131: "Software"}
LARGEST = 65_533  # bytes of a JPEG's segment


def block(comment: str, note: bytes) -> bytes:
    """The EXIF of a picture: a comment in big-endian UTF-16, as AUTOMATIC1111 writes it, and a maker's note."""
    values = {MAKER_NOTE: note, USER_COMMENT: UNICODE + comment.encode("utf-16-be", "surrogatepass")}
    start = 8 + 2 + 12 + 4  # header, and the directory that points to the next
    data_start = start + 2 + 12 * len(values) + 4
    entries, data = b"", b""
    for tag, value in values.items():
        entries += struct.pack(">HHLL", tag, UNDEFINED, len(value), data_start + len(data))
        data += value + b"\0" * (len(value) % 2)
    first = struct.pack(">H", 1) + struct.pack(">HHLL", EXIF_IFD, LONG, 1, start) + bytes(4)
    second = struct.pack(">H", len(values)) + entries + bytes(4)
    return b"Exif\0\0MM\0*" + struct.pack(">L", 8) + first + second + data


def texts_of(exif: Exif) -> dict[str, str]:
    """The texts in a picture's EXIF by their names; empty and unreadable ones are left out."""
    found = {name: decoded(exif[tag]) for tag, name in PLAIN.items() if tag in exif}
    directory = exif.get_ifd(EXIF_IFD)
    little = getattr(exif, "endian", ">") == "<"
    for tag, name in ((USER_COMMENT, "UserComment"), (MAKER_NOTE, "MakerNote")):
        value = directory.get(tag, exif.get(tag))  # Fooocus has them in the first directory
        if value is not None:
            found[name] = decoded(value, little=little)
    return {name: text for name, text in found.items() if text}


def decoded(value: object, *, little: bool = False) -> str:
    """A comment as text, decoded by the character code in its first eight bytes; "" for a value that is not text.

    little: True for a little-endian file. Tools disagree on whether UTF-16 text follows the file's byte order, so the
    order with more ASCII characters is taken.
    """
    if isinstance(value, str):
        return value.strip("\0")
    if not isinstance(value, bytes):
        return ""
    start, rest = value[:8], value[8:]
    if start == UNICODE:
        orders = ("utf-16-le", "utf-16-be") if little else ("utf-16-be", "utf-16-le")
        return max((utf_16(rest, order) for order in orders), key=lambda text: sum(char < "\x7f" for char in text))
    if start == JIS:
        return rest.decode("iso2022_jp", "replace").strip("\0")
    return (rest if start in (ASCII, UNKNOWN) else value).decode("utf-8", "replace").strip("\0")


def utf_16(text: bytes, order: str) -> str:
    """The text in a byte order, "utf-16-le" or "utf-16-be", without a byte order mark."""
    return text.decode(order, "replace").strip("\0\ufeff").replace("\0", "\ufffd")
