"""The process of a server: it listens, and when it is told to stop it finishes what it began."""

from __future__ import annotations

import logging
import threading
import time
from types import FrameType

import uvicorn

from latentrt_serve.app import create_app
from latentrt_serve.server import Server

log = logging.getLogger("latentrt.serve")

# After the drain, for answers that are on their way.
LAST_ANSWERS_S = 3
LAST_REQUESTS_S = 0.5  # after the drain, for requests that are on their way: they are refused
IDLE_CHECK_S = 1.0


class Draining(uvicorn.Server):
    """A server that, on SIGTERM or Ctrl-C, takes no more jobs, finishes those it has, and then closes.

    Until then it still answers: new jobs get status 503, and `/health/ready` says that it is draining. A second signal
    closes it at once.
    """

    def __init__(self, config: uvicorn.Config, server: Server, seconds: float) -> None:
        super().__init__(config)
        self.server, self.seconds = server, seconds
        self.draining = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins the drain; at the second signal, ends."""
        if self.draining:
            super().handle_exit(sig, frame)
            return
        self.draining = True
        threading.Thread(target=self._drain, args=(sig, frame), name="latentrt-drain").start()

    def _drain(self, sig: int, frame: FrameType | None) -> None:
        log.info("draining: up to %g s for %d jobs", self.seconds, len(self.server.room.running))
        finished = self.server.room.drain(self.seconds)
        log.info("drained" if finished else "drained: the rest was refused")
        time.sleep(LAST_REQUESTS_S)
        self.should_exit = True


def run(server: Server, host: str, port: int, drain_seconds: float) -> None:
    """Serves until it is told to stop."""
    config = uvicorn.Config(
        create_app(server),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=LAST_ANSWERS_S,
        server_header=False,
    )
    threading.Thread(target=put_back_idle, args=(server,), daemon=True, name="latentrt-idle").start()
    Draining(config, server, drain_seconds).run()


def put_back_idle(server: Server) -> None:
    """Frees idle models, again and again."""
    while True:
        time.sleep(IDLE_CHECK_S)
        server.room.shelf.put_back_idle()
