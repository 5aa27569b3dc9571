"""The jobs that clients may ask for: all that have not ended, and those that ended not long ago."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from latentrt_serve.job import Job
from latentrt_serve.refusal import Refusal

MOST_KEPT = 1000  # ended jobs, and ids of forgotten ones


class Store:
    """Jobs by id. seconds: how long an ended job is kept."""

    def __init__(self, seconds: float = 600.0) -> None:
        self.seconds = seconds
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._keys: dict[tuple[str, str], tuple[str, Mapping[str, Any]]] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, job: Job, client: str = "", key: str | None = None, body: Mapping[str, Any] | None = None) -> None:
        """Keeps a job, under the client's key if it has one."""
        with self._lock:
            self._forget_old()
            self._jobs[job.id] = job
            if key:
                self._keys[client, key] = job.id, body or {}

    def found(self, client: str, key: str, body: Mapping[str, Any]) -> Job | None:
        """The job that the client submitted under this key. Raises Refusal if it was another request."""
        with self._lock:
            self._forget_old()
            known = self._keys.get((client, key))
            if known is None:
                return None
            if known[1] != body:
                raise Refusal(409, "key_reused", "Idempotency-Key: got one that was used with another request")
            return self._jobs[known[0]]

    def find(self, job_id: str) -> Job:
        """The job of an id. Raises Refusal: 410 for one whose time is over, 404 for one that never was."""
        with self._lock:
            self._forget_old()
            if job_id in self._jobs:
                return self._jobs[job_id]
            if job_id in self._gone:
                raise Refusal(410, "expired", f"job {job_id}: it ended over {self.seconds:g} s ago and is gone")
        raise Refusal(404, "no_job", f"job {job_id}: there is none")

    def _forget_old(self) -> None:
        now = time.time()
        ended = [job for job in self._jobs.values() if job.completed is not None]
        extra = max(0, len(ended) - MOST_KEPT)
        for place, job in enumerate(ended):
            if place < extra or now - (job.completed or now) > self.seconds:
                del self._jobs[job.id]
                self._gone[job.id] = None
        while len(self._gone) > MOST_KEPT:
            self._gone.popitem(last=False)
        self._keys = {key: kept for key, kept in self._keys.items() if kept[0] in self._jobs}
