"""Energy over a span of time, read from meters: counted by the machine or added up from its power, never a guess.

A thread reads every meter at `HERTZ`, counters to see them wrap, rails to add up their power. What cannot be read is
said with its reason and never shown as 0. None of this is power as MLPerf measures it, at the wall.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

HERTZ = 20.0
IDLE_S = 2.0


@dataclass(frozen=True)
class Energy:
    """What one source counted while pictures were made.

    source: rapl, ina3221, ina238 or nvml. covers: domains, rails or the GPU. joules, watts: in all and on average,
    idle power included; None where nothing is known. missing: why. hertz: how often the source was read. uncertainty_j:
    what a figure that is as old as can be at either end is worth. idle_watts: before the run. per_picture_j: of joules.
    """

    source: str
    covers: tuple[str, ...]
    joules: float | None = None
    watts: float | None = None
    hertz: float | None = None
    uncertainty_j: float | None = None
    idle_watts: float | None = None
    per_picture_j: float | None = None
    missing: str | None = None


class Meter(Protocol):
    """A source of energy figures."""

    source: str
    covers: tuple[str, ...]
    period_s: float  # how often the source itself has a new figure

    def read(self) -> float:
        """Joules since some moment. Raises OSError or ValueError for a source that cannot be read."""
        ...


@dataclass
class Counter:
    """Energy that the machine adds up, in any number of counters that start again at zero after `wraps`."""

    source: str
    covers: tuple[str, ...]
    readers: Sequence[Callable[[], int]]
    wraps: Sequence[int | None]
    unit_j: float
    period_s: float
    last: list[int] = field(default_factory=list)
    total: int = 0

    def read(self) -> float:
        """Joules since the first reading."""
        values = [read() for read in self.readers]
        for value, before, wrap in zip(values, self.last or values, self.wraps, strict=True):
            self.total += value - before if value >= before or wrap is None else value - before + wrap
        self.last = values
        return self.total * self.unit_j


@dataclass
class Rails:
    """Power that is read now and then, and added up in trapezia."""

    source: str
    covers: tuple[str, ...]
    power: Callable[[], float]
    clock: Callable[[], float] = time.monotonic
    period_s: float = 1 / HERTZ
    last: tuple[float, float] | None = None
    total: float = 0.0

    def read(self) -> float:
        """Joules since the first reading."""
        now, watts = self.clock(), self.power()
        if self.last is not None:
            before, earlier = self.last
            self.total += (now - before) * (watts + earlier) / 2
        self.last = now, watts
        return self.total


@dataclass
class Reading:
    """One meter over a span of time: the first and last figures and how many were taken, or why there are none."""

    meter: Meter
    first: float = 0.0
    last: float = 0.0
    count: int = 0
    missing: str | None = None

    def take(self) -> None:
        """Reads the meter once, unless it could not be read before."""
        if self.missing is not None:
            return
        try:
            self.last = self.meter.read()
        except (OSError, ValueError) as error:
            self.missing = f"{self.meter.source}: {error}"
            return
        self.first = self.last if self.count == 0 else self.first
        self.count += 1

    def energy(self, seconds: float) -> Energy:
        """What the meter counted in that time."""
        own = Energy(self.meter.source, self.meter.covers, missing=self.missing)
        if self.missing is not None:
            return own
        joules = self.last - self.first
        if not joules > 0:
            return replace(own, missing=f"{self.meter.source}: the counter did not move in {seconds:.3g} s")
        watts = joules / seconds
        return replace(
            own, joules=joules, watts=watts, hertz=self.count / seconds, uncertainty_j=2 * self.meter.period_s * watts
        )


@contextmanager
def metered(sources: Sequence[Meter]) -> Iterator[list[Energy]]:
    """Gives a list that has what each source counted, once the block is done."""
    readings, found = [Reading(meter) for meter in sources], list[Energy]()
    done = threading.Event()

    def follow() -> None:
        while not done.wait(1 / HERTZ):
            for reading in readings:
                reading.take()

    thread = threading.Thread(target=follow, name="latentrt energy", daemon=True)
    for reading in readings:
        reading.take()
    start = time.monotonic()
    if sources:
        thread.start()
    try:
        yield found
    finally:
        done.set()
        if sources:
            thread.join()
        for reading in readings:
            reading.take()
        seconds = time.monotonic() - start
        found += [reading.energy(seconds) for reading in readings]


def idle_watts(sources: Sequence[Meter], seconds: float = IDLE_S) -> list[float | None]:
    """What each source counts while this process does nothing, in watts; no time is taken where there is no source."""
    if not sources:
        return []
    with metered(sources) as found:
        time.sleep(seconds)
    return [energy.watts for energy in found]
