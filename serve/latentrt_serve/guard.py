"""What stands before every route: the host that is asked for, the page that asks, the size of the body, and the key."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from latentrt_serve.refusal import Refusal
from latentrt_serve.routes import a1111_answers, openai
from latentrt_serve.server import Server, presented_in

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

A1111 = "/sdapi/"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Paths that answer without a key: probes, and the page, which asks for the key itself.
OPEN = ("/health/live", "/health/ready", "/", "/page")


class Guard:
    """Refuses what should not reach a route.

    The host of a request must be known, so that a page of another site cannot reach the server under a name of its own
    (DNS rebinding). A browser's request must come from a page of this server, or of an origin that was allowed.
    """

    def __init__(self, app: Any, server: Server) -> None:
        self.app, self.server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers with the refusal."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self.check(scope, Headers(scope=scope))
            await self.app(scope, limited(receive, self.server.limits.body), send)
        except Refusal as refusal:
            await answer_of(refusal, scope["path"])(scope, receive, send)

    def check(self, scope: Scope, headers: Headers) -> None:
        """Raises Refusal for a request that must not pass."""
        host = headers.get("host", "")
        if self.server.hosts and host_of(host) not in self.server.hosts:
            raise Refusal(421, "unknown_host", f"host: got {host!r}, expected {' or '.join(self.server.hosts)}")
        origin = headers.get("origin")
        if origin and not self.allowed(origin, host):
            raise Refusal(403, "unknown_origin", f"origin: got {origin}, expected this server's, or one of --origin")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.server.limits.body:
            raise too_large(self.server.limits.body)
        if self.server.keys and not is_open(scope["path"]) and not self.known(headers):
            raise Refusal(401, "invalid_api_key", "key: got none or a wrong one; send `Authorization: Bearer KEY`")

    def allowed(self, origin: str, host: str) -> bool:
        """Whether a page of this origin may ask."""
        return urlsplit(origin).netloc == host or origin in self.server.origins

    def known(self, headers: Headers) -> bool:
        """Whether the request presents one of the keys."""
        presented = presented_in(headers.get("authorization", ""))
        return any(secrets.compare_digest(presented.encode(), key.encode()) for key in self.server.keys)


def is_open(path: str) -> bool:
    """Whether a path answers without a key."""
    return path in OPEN or path.startswith("/page/")


def host_of(host: str) -> str:
    """The name in a Host header, without the port.

    >>> host_of("localhost:8000"), host_of("[::1]:8000")
    ('localhost', '::1')
    """
    return urlsplit(f"//{host}").hostname or "" if valid(host) else ""


def valid(host: str) -> bool:
    """Whether a Host header can be parsed."""
    try:
        urlsplit(f"//{host}")
    except ValueError:
        return False
    return True


def known_hosts(host: str, more: Iterable[str] = ()) -> tuple[str, ...]:
    """The hosts that requests may name: loopback's, the one that is listened on, and others that were allowed."""
    return tuple(dict.fromkeys([*LOOPBACK, host, *more]))


def limited(receive: Receive, most: int) -> Receive:
    """The receiver, which refuses a body of more than `most` bytes, whatever its header says."""
    taken = 0

    async def receive_limited() -> MutableMapping[str, Any]:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > most:  # FastAPI passes on errors of HTTP alone while it reads a body
            raise HTTPException(413) from too_large(most)
        return message

    return receive_limited


def too_large(most: int) -> Refusal:
    """The refusal of a body that is too large."""
    return Refusal(413, "body_too_large", f"body: got more than the {most:,} bytes that this server takes")


def answer_of(refusal: Refusal, path: str) -> JSONResponse:
    """A refusal as an answer, in the shape of the interface that the path belongs to."""
    headers = {"Retry-After": str(refusal.retry_after)} if refusal.retry_after else {}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if path.startswith(A1111):
        return Ascii(a1111_answers.error_of(refusal), a1111_answers.status_of(refusal), headers=headers)
    return Ascii({"error": openai.error_of(refusal)}, refusal.status, headers=headers)


class Ascii(JSONResponse):
    """An answer in ASCII alone: messages quote what clients send, which may be text that is no Unicode."""

    def render(self, content: Any) -> bytes:
        """The bytes of the answer."""
        return json.dumps(content).encode()
