"""The user's secret for the signatures of plans and of graphs in caches: only what is signed with it is loaded.

A plan is machine code. A plain hash would only show that the file is complete; a signature shows that this user, or a
machine with the same secret, built it. `LATENTRT_PLAN_SECRET` names another file, so that what is built on one machine
loads on others with a copy of that file.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
from pathlib import Path

from latentrt.errors import EngineError
from latentrt.storage.atomic import WINDOWS, new_file
from latentrt.storage.locks import locked
from latentrt.storage.user_dirs import user_state

log = logging.getLogger(__name__)

VARIABLE = "LATENTRT_PLAN_SECRET"
BYTES = 32


def user_secret() -> bytes:
    """The secret, 32 bytes or more; if there is none, a new one is written with mode 0600.

    Raises EngineError if it cannot be read or written, is too short, or other users may read it.
    """
    path = secret_path()
    try:
        if not path.exists() and VARIABLE not in os.environ:
            write_new_secret(path)
        with path.open("rb") as file:
            # Windows has no such bits; there, the rights of the folder protect the file.
            open_to_others = not WINDOWS and os.fstat(file.fileno()).st_mode & 0o077
            secret = file.read()
    except OSError as error:
        raise EngineError(
            f"{path}: the secret for the signatures of plans cannot be read or written ({error.strerror}); set "
            f"XDG_STATE_HOME to a writable folder, or {VARIABLE} to a file of {BYTES} random bytes"
        ) from error
    if open_to_others:
        raise EngineError(f"{path}: other users may read this secret; run `chmod 600 {path}`")
    if len(secret) < BYTES:
        raise EngineError(f"{path}: got {len(secret)} bytes, expected a secret of at least {BYTES}; remove the file")
    return secret


def signature_of(content: bytes) -> str:
    """HMAC-SHA256 of the content with the user's secret, in hexadecimal. Raises as `user_secret`."""
    return hmac.new(user_secret(), content, hashlib.sha256).hexdigest()


def is_signed(content: bytes, signature: str) -> bool:
    """Whether the signature is this user's. False without a secret, which then is not made."""
    if not secret_path().exists():
        return False
    try:
        return hmac.compare_digest(signature_of(content).encode(), signature.encode(errors="replace"))
    except EngineError as error:
        log.warning("%s", error)
        return False


def secret_path() -> Path:
    """The path of the secret: from `LATENTRT_PLAN_SECRET`, else in the user's state folder."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    return user_state() / "plan.secret"


def write_new_secret(path: Path) -> None:
    """Writes a new secret, whole or not at all; if two processes do so at once, the first secret stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(path.parent):
        if not path.exists():
            with new_file(path) as temporary:
                temporary.chmod(0o600)
                temporary.write_bytes(secrets.token_bytes(BYTES))
