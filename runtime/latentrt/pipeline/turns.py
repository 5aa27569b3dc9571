"""Runs under a memory budget take turns, a step at a time: a budget is of the whole process, and reckoned for one run.

What a run leaves loaded is freed before another takes its turn, unless both are of one pipeline and keep it loaded. So
the threads of a server never need more than the run that needs the most; runs without a budget wait for nobody.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Holder(Protocol):
    """What has memory to free: a pipeline."""

    def unload(self) -> None:
        """Frees it."""
        ...


class Turns:
    """Whose turn it is, and who was before."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.run: weakref.ref[object] | None = None
        self.holder: weakref.ref[Holder] | None = None
        self.kept = True

    @contextmanager
    def of(self, run: object, holder: Holder, *, keep: bool) -> Iterator[None]:
        """The turn of a run, which the block is a part of. keep: whether its plan leaves components loaded."""
        with self.lock:
            before = self.holder() if self.holder else None
            same = self.run is not None and self.run() is run
            if before is not None and not same and not (before is holder and keep and self.kept):
                before.unload()
            self.run, self.holder, self.kept = weakref.ref(run), weakref.ref(holder), keep
            yield


TURNS = Turns()
