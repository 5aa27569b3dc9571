"""One denoiser call for several runs: rows that wait at the same time go through the network together.

A run of its own calls the denoiser with its rows, whatever its step, sampler or guidance. Here these calls meet: those
whose rows have equal shapes are joined along the first axis, computed at once, and divided again. So a run may join
others in the middle of theirs. A joined call is made only where it gives the same bits: the first of every shape is
computed both ways and compared.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from latentrt.engines import Engine, MemoryModel
from latentrt.engines.keeping import KeepsOutputs, keep
from latentrt.tensors import Array, Tensor

log = logging.getLogger("latentrt.serve")

Feeds = Mapping[str, Array]
# Names, shapes of one row, and types: calls that agree in them can be joined.
Signature = tuple[tuple[str, tuple[int, ...], str], ...]


@dataclass(eq=False)  # arrays cannot be compared so
class Waiting:
    """A call that waits for others. outputs, error: once it is computed."""

    feeds: Feeds
    rows: int
    outputs: dict[str, Array] | None = None
    error: BaseException | None = None


@dataclass(eq=False)
class InTurn:
    """An engine whose calls take turns with all others of the device. lock: held during every call of the device."""

    engine: Engine
    lock: threading.RLock

    @property
    def memory(self) -> MemoryModel | None:
        """The memory that the engine needs."""
        return self.engine.memory

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        """The engine's outputs."""
        with self.lock:
            return self.engine(feeds)

    def keep(self, feeds: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
        """The engine's outputs, some of which stay on its device; see `keeping`. Never joined with other calls."""
        with self.lock:
            return keep(self.engine, feeds, names)

    def load(self) -> None:
        """Loads the graph."""
        self.engine.load()

    def unload(self) -> None:
        """Frees the graph's memory."""
        with self.lock:
            self.engine.unload()

    def close(self) -> None:
        """Frees everything."""
        with self.lock:
            self.engine.close()


@dataclass(eq=False)
class Joined(InTurn):
    """The engine of a denoiser, called by several runs at once.

    seconds: how long a call waits for the others at most. exact: whether joined calls of a signature and a division
    into rows give the bits of separate ones, once known. shared: the inputs that all rows of a call share, which have
    no axis of rows; a table of positions is the same for all calls of one size.
    """

    seconds: float
    shared: frozenset[str] = frozenset()
    exact: dict[tuple[Signature, tuple[int, ...]], bool] = field(default_factory=dict)
    calls: int = 0
    joined: int = 0

    def __post_init__(self) -> None:
        self._turn = threading.Condition()
        self._members = 0
        self._waiting: list[Waiting] = []
        self._leading = False

    @contextmanager
    def member(self) -> Iterator[None]:
        """A block in which this thread is about to call again and again, so that others wait for it."""
        with self._turn:
            self._members += 1
        try:
            yield
        finally:
            with self._turn:
                self._members -= 1
                self._turn.notify_all()

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        """The engine's outputs for these feeds, computed with those of other threads if they come in time."""
        mine = Waiting(feeds, next(len(feed) for name, feed in feeds.items() if name not in self.shared))
        with self._turn:
            self._waiting.append(mine)
            self._turn.notify_all()
            batch = self._awaited(mine)
        if batch:
            self._compute(batch)
        if mine.error is not None:
            raise mine.error
        assert mine.outputs is not None
        return mine.outputs

    def keep(self, feeds: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
        """As of `InTurn` for an engine with a device; any other keeps arrays, so its calls are joined like all."""
        if isinstance(self.engine, KeepsOutputs):
            return super().keep(feeds, names)
        return dict(self({name: np.asarray(feed) for name, feed in feeds.items()}))

    def _awaited(self, mine: Waiting) -> list[Waiting]:
        """Waits until the call is computed, or until it is this thread's to compute all that wait."""
        deadline = time.monotonic() + self.seconds
        while mine.outputs is None and mine.error is None:
            if self._leading or mine not in self._waiting:
                self._turn.wait()
                deadline = time.monotonic() + self.seconds  # from here on, the others may come back
            elif len(self._waiting) >= self._members or time.monotonic() >= deadline:
                self._leading = True
                batch, self._waiting = self._waiting, []
                return batch
            else:
                self._turn.wait(max(0.0, deadline - time.monotonic()))
        return []

    def _compute(self, batch: list[Waiting]) -> None:
        """Computes the calls of a batch, those of one signature together."""
        try:
            for group in by_signature(batch, self.shared):
                with self.lock:
                    self._compute_group(group)
        finally:
            with self._turn:
                self._leading = False
                self._turn.notify_all()

    def _compute_group(self, group: Sequence[Waiting]) -> None:
        """Computes calls of one signature: at once where that gives the same bits, else one by one."""
        key = (signature(group[0].feeds, self.shared), tuple(one.rows for one in group))
        try:
            together = self._together(group) if len(group) > 1 and self.exact.get(key, True) else None
            if together is None or key not in self.exact:
                self._separately(group)
            if len(group) > 1 and key not in self.exact:
                self.exact[key] = together is not None and all(map(same_bits, together, map(outputs_of, group)))
            if together is not None and self.exact[key]:
                self.joined += len(group)
                for one, outputs in zip(group, together, strict=True):
                    one.outputs = outputs
        except BaseException as error:
            for one in group:
                one.outputs, one.error = None, error

    def _together(self, group: Sequence[Waiting]) -> list[dict[str, Array]] | None:
        """The outputs of each call from one of all rows; None where there is too little memory for that."""
        try:
            return divided(self._call(concatenated(group, self.shared)), [one.rows for one in group])
        except MemoryError as error:  # the engine's or NumPy's
            log.warning("too little memory for %d calls of the denoiser at once: one by one (%s)", len(group), error)
            return None

    def _separately(self, group: Sequence[Waiting]) -> None:
        for one in group:
            one.outputs = self._call(one.feeds)

    def _call(self, feeds: Feeds) -> dict[str, Array]:
        self.calls += 1
        return self.engine(feeds)


def signature(feeds: Feeds, shared: Collection[str] = ()) -> Signature:
    """What two calls have to agree in to be joined. shared: inputs without an axis of rows."""
    return tuple(
        (name, feed.shape if name in shared else feed.shape[1:], feed.dtype.str) for name, feed in sorted(feeds.items())
    )


def by_signature(batch: Sequence[Waiting], shared: Collection[str]) -> list[list[Waiting]]:
    """The calls in groups that can be joined."""
    groups: dict[Signature, list[Waiting]] = {}
    for one in batch:
        groups.setdefault(signature(one.feeds, shared), []).append(one)
    return list(groups.values())


def concatenated(group: Sequence[Waiting], shared: Collection[str]) -> dict[str, Array]:
    """The feeds of one call for all rows of a group."""
    first = group[0].feeds
    return {
        name: first[name] if name in shared else np.concatenate([one.feeds[name] for one in group]) for name in first
    }


def divided(outputs: Mapping[str, Array], rows: Sequence[int]) -> list[dict[str, Array]]:
    """The outputs of each call of a group, copied, from those of all rows."""
    ends = np.cumsum(rows)
    return [
        {name: output[end - count : end].copy() for name, output in outputs.items()}
        for end, count in zip(ends, rows, strict=True)
    ]


def outputs_of(call: Waiting) -> Mapping[str, Array]:
    """The outputs of a call that was computed."""
    return call.outputs or {}


def same_bits(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    """Whether two calls gave the same outputs, bit for bit."""
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)
