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
from typing import cast

import numpy as np

from latentrt.engines import Engine
from latentrt.engines.keeping import KeepsOutputs, keep
from latentrt.engines.wrapped import Wrapped
from latentrt.tensors import Array, Tensor

log = logging.getLogger("latentrt.serve")

Feeds = Mapping[str, Array]
# Names, shapes of one row, and types: calls that agree in them can be joined.
Signature = tuple[tuple[str, tuple[int, ...], str], ...]


@dataclass(eq=False)  # arrays cannot be compared so
class Waiting:
    """A call of an engine that waits for others. outputs, error: once it is computed.

    kept: the outputs that stay on the engine's device; such a call is computed by itself. None if it has no device.
    """

    engine: Joined
    feeds: Mapping[str, Tensor]
    kept: Collection[str] | None = None
    outputs: dict[str, Tensor] | None = None
    error: BaseException | None = None

    @property
    def rows(self) -> int:
        """The number of rows of every feed that has them."""
        return next(feed.shape[0] for name, feed in self.feeds.items() if name not in self.engine.shared)

    @property
    def signature(self) -> Signature:
        """What two calls of an engine have to agree in to be joined."""
        return tuple(
            (name, tuple(feed.shape[name not in self.engine.shared :]), feed.dtype.str)
            for name, feed in sorted(self.feeds.items())
        )


class Meeting:
    """Where the calls of several runs meet. seconds: how long a call waits for the others at most.

    The denoiser and the shallow one of a step cache share it: the runs of one step may call either.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
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

    def outputs(self, mine: Waiting) -> dict[str, Tensor]:
        """The outputs of a call, computed with those of other threads if they come in time."""
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
        """Computes the calls of a batch, those of one engine and signature together."""
        try:
            for group in alike(batch):
                group[0].engine.compute(group)
        finally:
            with self._turn:
                self._leading = False
                self._turn.notify_all()


@dataclass(eq=False)
class InTurn(Wrapped):
    """An engine whose calls take turns with all others of the device. lock: held during every call of the device."""

    engine: Engine
    lock: threading.RLock

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        """The engine's outputs."""
        with self.lock:
            return self.engine(feeds)

    def keep(self, feeds: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
        """The engine's outputs, some of which stay on its device; see `keeping`. Never joined with other calls."""
        with self.lock:
            return keep(self.engine, feeds, names)

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
    """The engine of a denoiser, called by several runs at once, which meet at `meeting`.

    shared: the inputs that all rows of a call share, which have no axis of rows; a table of positions is the same for
    all calls of one size. exact: whether joined calls of a signature and a division into rows give the bits of separate
    ones, once known.
    """

    meeting: Meeting
    shared: frozenset[str] = frozenset()
    exact: dict[tuple[Signature, tuple[int, ...]], bool] = field(default_factory=dict)
    calls: int = 0
    joined: int = 0

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        """The engine's outputs for these feeds, computed with those of other threads if they come in time."""
        return cast(dict[str, Array], self.meeting.outputs(Waiting(self, feeds)))

    def keep(self, feeds: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
        """As of `InTurn`; an engine without a device keeps arrays, so its calls are joined like all."""
        on_device = isinstance(self.engine, KeepsOutputs)
        arrays = feeds if on_device else {name: np.asarray(feed) for name, feed in feeds.items()}
        return self.meeting.outputs(Waiting(self, arrays, names if on_device else None))

    def compute(self, group: Sequence[Waiting]) -> None:
        """Computes calls of this engine that agree in their signature, and gives each its outputs or the error."""
        with self.lock:
            try:
                self._compute_group(group)
            except BaseException as error:
                for one in group:
                    one.outputs, one.error = None, error

    def _compute_group(self, group: Sequence[Waiting]) -> None:
        """At once where that gives the same bits, else one by one."""
        if len(group) == 1:
            self._separately(group)
            return
        key = (group[0].signature, tuple(one.rows for one in group))
        together = self._together(group) if self.exact.get(key, True) else None
        if together is None or key not in self.exact:
            self._separately(group)
        if key not in self.exact:
            self.exact[key] = together is not None and all(map(same_bits, together, map(outputs_of, group)))
        if together is not None and self.exact[key]:
            self.joined += len(group)
            for one, outputs in zip(group, together, strict=True):
                one.outputs = dict(outputs)

    def _together(self, group: Sequence[Waiting]) -> list[dict[str, Array]] | None:
        """The outputs of each call from one of all rows; None where there is too little memory for that."""
        try:
            return divided(self._call(concatenated(group, self.shared)), [one.rows for one in group])
        except MemoryError as error:  # the engine's or NumPy's
            log.warning("too little memory for %d calls of the denoiser at once: one by one (%s)", len(group), error)
            return None

    def _separately(self, group: Sequence[Waiting]) -> None:
        for one in group:
            self.calls += 1
            one.outputs = keep(self.engine, one.feeds, one.kept or ())

    def _call(self, feeds: Feeds) -> dict[str, Array]:
        self.calls += 1
        return self.engine(feeds)


def alike(batch: Sequence[Waiting]) -> list[list[Waiting]]:
    """The calls in groups that can be joined: none with what stays on a device."""
    groups: dict[object, list[Waiting]] = {}
    for one in batch:
        key = (id(one.engine), one.signature) if one.kept is None else id(one)
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def concatenated(group: Sequence[Waiting], shared: Collection[str]) -> dict[str, Array]:
    """The feeds of one call for all rows of a group."""

    def joined(name: str) -> Array:
        parts = [np.asarray(one.feeds[name]) for one in group]
        return parts[0] if name in shared else np.concatenate(parts)

    return {name: joined(name) for name in group[0].feeds}


def divided(outputs: Mapping[str, Array], rows: Sequence[int]) -> list[dict[str, Array]]:
    """The outputs of each call of a group, copied, from those of all rows."""
    ends = np.cumsum(rows)
    return [
        {name: output[end - count : end].copy() for name, output in outputs.items()}
        for end, count in zip(ends, rows, strict=True)
    ]


def outputs_of(call: Waiting) -> Mapping[str, Tensor]:
    """The outputs of a call that was computed."""
    return call.outputs or {}


def same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two calls gave the same outputs, bit for bit."""
    return one.keys() == other.keys() and all(
        np.asarray(one[name]).tobytes() == np.asarray(other[name]).tobytes() for name in one
    )
