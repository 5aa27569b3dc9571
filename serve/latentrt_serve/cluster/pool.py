"""A pool of equal servers in a Ray cluster: the application of `latentrt serve`, as a deployment of Ray Serve.

Ray chooses the nodes, counts who waits, adds and removes servers, and sends requests elsewhere when a node is lost.
Jobs stay out: they live in one process, and Ray would look for them in another. Needs the extra `cluster`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import FastAPI

from latentrt.errors import EngineError, RequestError
from latentrt_serve.app import create_app
from latentrt_serve.guard import LOOPBACK
from latentrt_serve.limits import Limits
from latentrt_serve.room import Room
from latentrt_serve.routes import health, openai
from latentrt_serve.server import Server
from latentrt_serve.shelf import ModelOptions, shelf_of

ROUTERS = (openai.router, health.router)
DRAIN_S = 20.0
RETRY_AFTER_S = 2.0
FULL = 429


@dataclass(frozen=True)
class Pool:
    """Servers of the same models on nodes of the same kind.

    bundles: folders, or names of built-in models, by the names that clients call them; they lie at the same place on
    every node. resources: what a node must offer for each server, such as {"orin": 1}. route: the path before all of
    the pool's. least, most: servers; Ray adds one when more than a batch of requests is in work per server. waiting:
    requests that may wait for the pool, beyond which clients get status 429. keys, hosts: as in `Server`.
    """

    name: str
    bundles: Mapping[str, str]
    resources: Mapping[str, float] = field(default_factory=dict)
    route: str = "/"
    least: int = 1
    most: int = 1
    cpus: float = 1.0
    waiting: int = 32
    models: ModelOptions = ModelOptions()
    limits: Limits = Limits()
    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = LOOPBACK


def start(*pools: Pool, host: str = "127.0.0.1", port: int = 8188, location: str = "HeadOnly") -> None:
    """Serves pools on the Ray cluster that this process is connected to; returns when they take requests.

    location: where Ray listens, "HeadOnly" or "EveryNode". Raises RequestError for a cluster without tokens, which
    would run the code of whoever reaches it, and for an address that others reach without a key; EngineError without
    Ray.
    """
    serve = library()
    if os.environ.get("RAY_AUTH_MODE") != "token":
        raise RequestError(
            "RAY_AUTH_MODE: expected token on every node, else whoever reaches the cluster runs code on it; "
            "`ray get-auth-token --generate` makes a token"
        )
    for pool in pools:
        if host not in LOOPBACK and not pool.keys:
            raise RequestError(f"host: got {host}, which others can reach, and a pool without keys; give keys")
    serve.start(proxy_location=location, http_options={"host": host, "port": port})
    for pool in pools:
        serve.run(application(pool), name=pool.name, route_prefix=pool.route)


def application(pool: Pool) -> Any:
    """The pool as an application of Ray Serve."""
    serve = library()

    def built() -> FastAPI:  # Ray tells a builder from an application by its being a plain function
        return app_of(pool)

    deployment = serve.deployment(serve.ingress(built)())
    return deployment.options(**options_of(pool)).bind()


def app_of(pool: Pool) -> FastAPI:
    """The application of one server of the pool, on its node."""
    most = ongoing(pool)
    room = Room(shelf_of(pool.bundles, pool.models), most)
    server = Server(room, pool.limits, keys=pool.keys, hosts=pool.hosts)
    return create_app(server, closing=partial(room.drain, DRAIN_S), routers=ROUTERS)


def ongoing(pool: Pool) -> int:
    """Requests that one server takes at the same time: a batch that runs, and the next one."""
    return 2 * pool.models.batch


def options_of(pool: Pool) -> dict[str, Any]:
    """Ray Serve's options of a pool."""
    return {
        "name": pool.name,
        "ray_actor_options": {"num_cpus": pool.cpus, "resources": dict(pool.resources)},
        "max_ongoing_requests": ongoing(pool),
        "max_queued_requests": pool.waiting,
        "backpressure_config": {"status_code": FULL, "retry_after_s": RETRY_AFTER_S},
        "autoscaling_config": {
            "min_replicas": pool.least,
            "max_replicas": pool.most,
            "target_ongoing_requests": pool.models.batch,
        },
        "graceful_shutdown_timeout_s": DRAIN_S,
    }


def library() -> Any:
    """Ray Serve. Raises EngineError that names the extra."""
    try:
        from ray import serve
    except ImportError as error:
        raise EngineError(f"a cluster needs {error.name}: run `pip install 'latentrt[cpu,serve,cluster]'`") from error
    return serve
