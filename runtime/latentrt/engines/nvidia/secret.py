"""The user's secret, with which plans are signed: whoever lacks it cannot make a plan that will be loaded.

A plan is machine code. A hash beside it would only say that it is whole; the keyed digest says that this user, or a
machine that was given the same secret, built it. `LATENTRT_PLAN_SECRET` names another file, so that plans compiled
ahead of time on one machine are loaded on others that hold that file.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from latentrt.errors import EngineError
from latentrt.storage.atomic import WINDOWS, new_file
from latentrt.storage.locks import locked
from latentrt.storage.user_dirs import user_state

VARIABLE = "LATENTRT_PLAN_SECRET"
BYTES = 32


def user_secret() -> bytes:
    """The secret of 32 bytes or more, made with mode 0600 when there is none.

    Raises EngineError when it cannot be read or made, is too short, or others than its owner may read it.
    """
    path = secret_path()
    try:
        if not path.exists() and VARIABLE not in os.environ:
            make(path)
        with path.open("rb") as file:
            # Windows has no such bits: there the folder's own rights keep others out.
            open_to_others = not WINDOWS and os.fstat(file.fileno()).st_mode & 0o077
            secret = file.read()
    except OSError as error:
        raise EngineError(
            f"{path}: the secret that plans are signed with cannot be read or made ({error.strerror}); set "
            f"XDG_STATE_HOME to a folder that can be written, or {VARIABLE} to a file of {BYTES} random bytes"
        ) from error
    if open_to_others:
        raise EngineError(f"{path}: others than its owner may read this secret; run `chmod 600 {path}`")
    if len(secret) < BYTES:
        raise EngineError(f"{path}: got {len(secret)} bytes, expected a secret of at least {BYTES}; remove the file")
    return secret


def secret_path() -> Path:
    """Where the secret is: what `LATENTRT_PLAN_SECRET` names, else the user's state folder."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    return user_state() / "plan.secret"


def make(path: Path) -> None:
    """Writes a new secret, whole or not at all; where two processes do so at once, the first one's stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(path.parent):
        if not path.exists():
            with new_file(path) as temporary:
                temporary.chmod(0o600)
                temporary.write_bytes(secrets.token_bytes(BYTES))
