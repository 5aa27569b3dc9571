"""What every route needs: the room, the jobs that are kept, the limits; and who the client is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from fastapi import Request as HttpRequest

from latentrt_serve.limits import Limits
from latentrt_serve.room import Room
from latentrt_serve.store import Store


@dataclass
class Server:
    """The parts of a server. keys: what clients must present one of; none for a server without keys."""

    room: Room
    limits: Limits = Limits()
    store: Store = field(default_factory=Store)
    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


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
    """The key in the header: `Authorization: Bearer KEY`; empty for none."""
    scheme, _, key = http.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
