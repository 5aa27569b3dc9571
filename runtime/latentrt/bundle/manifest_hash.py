"""The hash of bundle.json inside bundle.json, as its last key: any change of the file is found.

It is the SHA-256 of the file's bytes with zeros for the digits of the hash itself.
"""

from __future__ import annotations

import hashlib
import json
import re

from latentrt.storage.json_codec import TypedError

KEY = "sha256"
ZEROS = "0" * 64
# The hash's digits, at the end of a sealed file.
END = re.compile(rb'(?<=\n  "sha256": ")[0-9a-f]{64}(?="\n}\n\Z)')


def sealed(text: str) -> str:
    """The text, which ends with zeros for its hash, with the hash's digits in their place."""
    content = text.encode()
    return END.sub(digest(content).encode(), content).decode()


def has_hash(content: bytes) -> bool:
    """True if the content states its own hash, right or wrong."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and KEY in document


def check(content: bytes) -> None:
    """Raises TypedError unless the content states its own hash rightly."""
    if is_sealed(content):
        return
    if is_sealed(unix(content)):
        raise TypedError(
            "its line endings were changed, as git's autocrlf does: copy it without that, or run `latentrt upgrade` "
            "on the bundle"
        )
    found = END.search(content)
    got = found[0].decode() if found else "it in another layout"
    raise TypedError(
        f".{KEY}: got {got}, expected the file's own hash, {digest(content)}: it was damaged, or edited by hand; if "
        "that was you, run `latentrt upgrade --edited` on the bundle"
    )


def is_sealed(content: bytes) -> bool:
    """True if the content ends with its own hash."""
    found = END.search(content)
    return found is not None and found[0] == digest(content).encode()


def unix(content: bytes) -> bytes:
    """The content with Unix line endings, as it is written."""
    return content.replace(b"\r\n", b"\n")


def digest(content: bytes) -> str:
    """The hash in hexadecimal; for content without a hash at its end, the SHA-256 of all of it."""
    return hashlib.sha256(END.sub(ZEROS.encode(), content)).hexdigest()
