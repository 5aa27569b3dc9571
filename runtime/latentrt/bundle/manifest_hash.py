"""The hash that bundle.json carries of itself, as its last key: whatever else differs from what was written is found.

It is the SHA-256 of the file's own bytes with zeros for the digits of this hash.
"""

from __future__ import annotations

import hashlib
import json
import re

from latentrt.storage.json_codec import TypedError

KEY = "sha256"
ZEROS = "0" * 64
# Where it stands: nothing but this ends a sealed file.
END = re.compile(rb'(?<=\n  "sha256": ")[0-9a-f]{64}(?="\n}\n\Z)')


def sealed(text: str) -> str:
    """The text with the digits of its hash, which ends in zeros where they belong."""
    content = text.encode()
    return END.sub(digest(content).encode(), content).decode()


def has_hash(content: bytes) -> bool:
    """Whether a file says what its own hash is, rightly or not."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and KEY in document


def check(content: bytes) -> None:
    """Raises TypedError for content that does not have its own hash."""
    if is_sealed(content):
        return
    if is_sealed(unix(content)):
        raise TypedError(
            "its line endings were changed, as git's autocrlf does: copy it without that, or run `latentrt upgrade` "
            "on the bundle"
        )
    found = END.search(content)
    got = found[0].decode() if found else "it in another form than it is written"
    raise TypedError(
        f".{KEY}: got {got}, expected the file's own hash, {digest(content)}: it was damaged, or edited by hand; if "
        "that was you, run `latentrt upgrade --edited` on the bundle"
    )


def is_sealed(content: bytes) -> bool:
    """Whether the content has its own hash."""
    found = END.search(content)
    return found is not None and found[0] == digest(content).encode()


def unix(content: bytes) -> bytes:
    """The content with the line endings that it is written with."""
    return content.replace(b"\r\n", b"\n")


def digest(content: bytes) -> str:
    """The hash, in hexadecimal; of content that does not end in one, of all of it."""
    return hashlib.sha256(END.sub(ZEROS.encode(), content)).hexdigest()
