"""Where the time of a run goes, by phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

clock = time.perf_counter


@dataclass
class Timings:
    """Seconds by phase. A phase inside another counts as its own alone, so that the sum of all is the time in any."""

    seconds: dict[str, float] = field(default_factory=dict)
    _phase: str | None = None
    _since: float = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time that the block takes, and no phase inside it, to a phase."""
        outer = self._enter(name)
        try:
            yield
        finally:
            self._enter(outer)

    def _enter(self, name: str | None) -> str | None:
        """Books the time up to now to the phase that it was, and returns that."""
        now, left = clock(), self._phase
        if left is not None:
            self.seconds[left] = self.seconds.get(left, 0.0) + now - self._since
        self._phase, self._since = name, now
        return left
