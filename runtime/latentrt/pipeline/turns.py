"""Turns of runs under a memory budget, one step at a time: a budget limits the process, but is planned for one run.

Components of a run are unloaded before another run's turn, unless both are of one pipeline and keep them loaded. So the
threads of a server never need more than the largest run alone. Runs without a budget do not wait.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Holder(Protocol):
    """An owner of memory that can be freed: a pipeline."""

    def unload(self) -> None:
        """Frees the memory."""
        ...


class Turns:
    """The run and the pipeline of the last turn. lock: held during a turn."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.run: weakref.ref[object] | None = None
        self.holder: weakref.ref[Holder] | None = None
        self.kept = True

    @contextmanager
    def of(self, run: object, holder: Holder, *, keep: bool) -> Iterator[None]:
        """A block in the turn of a run. keep: True if the run's plan leaves components loaded."""
        with self.lock:
            before = self.holder() if self.holder else None
            same = self.run is not None and self.run() is run
            if before is not None and not same and not (before is holder and keep and self.kept):
                before.unload()
            self.run, self.holder, self.kept = weakref.ref(run), weakref.ref(holder), keep
            yield


TURNS = Turns()
