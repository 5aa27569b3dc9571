"""The application: all routes, the guard before them, and how errors are answered."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from latentrt.version import VERSION
from latentrt_serve.guard import Guard, answer_of
from latentrt_serve.refusal import Refusal, refusal_of
from latentrt_serve.routes import a1111, a1111_options, health, jobs, openai, page
from latentrt_serve.schemas import ERROR, refusals
from latentrt_serve.server import Server

log = logging.getLogger("latentrt.serve")

# Words for errors of HTTP itself.
CODES = {404: "not_found", 405: "method_not_allowed"}
ROUTERS = (openai.router, a1111.router, a1111_options.router, jobs.router, health.router, page.router)


def create_app(
    server: Server, closing: Callable[[], object] | None = None, routers: Sequence[APIRouter] = ROUTERS
) -> FastAPI:
    """The application of a server. closing: called when it shuts down. routers: what it offers."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server.room.start()
        yield
        if closing:
            closing()

    app = FastAPI(
        title="latentrt",
        version=VERSION,
        summary="Pictures by latent diffusion.",
        lifespan=lifespan,
        responses=refusals(ERROR),
    )
    app.state.server = server
    for router in routers:
        app.include_router(router)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(Exception, failed)
    for kind in (Refusal, ValueError, MemoryError):
        app.add_exception_handler(kind, failed)
    app.add_middleware(Guard, server=server)
    if server.origins:  # before the guard: a browser asks first, without a key, whether its page may ask
        app.add_middleware(CORSMiddleware, allow_origins=server.origins, allow_methods=["*"], allow_headers=["*"])
    return app


async def failed(http: HttpRequest, error: Exception) -> Response:
    """The answer to an error."""
    refusal = refusal_of(error)
    if refusal.status == 500:
        log.error("request failed", exc_info=error)
    return answer_of(refusal, http.url.path)


async def of_http(http: HttpRequest, error: Exception) -> Response:
    """The answer to an error of HTTP itself, such as a path that does not exist."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, Refusal):  # of a body that grew too large while it was read
        return answer_of(error.__cause__, http.url.path)
    refusal = Refusal(error.status_code, CODES.get(error.status_code, "http_error"), str(error.detail))
    return answer_of(refusal, http.url.path)


async def invalid(http: HttpRequest, error: Exception) -> Response:
    """The answer to a body that is no JSON object, or a parameter of another kind."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    refusal = Refusal(400, "invalid_request", f"{place}: {first['msg']}", param=str(first["loc"][-1]))
    return answer_of(refusal, http.url.path)
