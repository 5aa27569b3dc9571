"""What every route needs: the room, the jobs that are kept, the limits; and who the client is."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field

from fastapi import Request as HttpRequest

from latentrt_serve.limits import Limits
from latentrt_serve.preferences import Preferences
from latentrt_serve.room import Room
from latentrt_serve.store import Store


@dataclass
class Server:
    """The parts of a server. keys: what clients must present one of; none for a server without keys.

    options: AUTOMATIC1111's, of each client.
    """

    room: Room
    limits: Limits = Limits()
    store: Store = field(default_factory=Store)
    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    options: Preferences = field(default_factory=Preferences)


def server_of(http: HttpRequest) -> Server:
    """The server that a request came to."""
    server: Server = http.app.state.server
    return server


def client_of(http: HttpRequest) -> str:
    """Whose turn a request takes: the key that it presents, else the address that it came from."""
    key = presented_key(http)
    if key:
        return hashlib.sha256(key.encode()).hexdigest()[:16]
    return http.client.host if http.client else ""


def presented_key(http: HttpRequest) -> str:
    """The key in the header; empty for none."""
    return presented_in(http.headers.get("authorization", ""))


def presented_in(authorization: str) -> str:
    """The key in a header: a bearer's, or the password of AUTOMATIC1111's basic authentication."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return value.strip() if scheme.lower() == "bearer" else ""
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
