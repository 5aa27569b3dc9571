"""Time of a run by phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

clock = time.perf_counter


@dataclass
class Timings:
    """Seconds by phase. Time in an inner phase does not count to the outer one, so all phases add up to the total."""

    seconds: dict[str, float] = field(default_factory=dict)
    _phase: str | None = None
    _since: float = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time of the block, without phases inside it, to a phase."""
        outer = self._enter(name)
        try:
            yield
        finally:
            self._enter(outer)

    def _enter(self, name: str | None) -> str | None:
        """Adds the time until now to the current phase, switches to another, and returns the former one."""
        now, former = clock(), self._phase
        if former is not None:
            self.seconds[former] = self.seconds.get(former, 0.0) + now - self._since
        self._phase, self._since = name, now
        return former
