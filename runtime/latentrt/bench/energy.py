"""Energy over a span of time, from the machine's energy counters or from its power, integrated over time.

A thread reads every meter `HERTZ` times per second, to notice when a counter wraps and to integrate power. A meter that
cannot be read gives the reason, never 0. MLPerf measures power at the wall; no meter here does.
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
    """Energy from one source while pictures were generated.

    source: rapl, ina3221, ina238 or nvml. covers: names of domains, rails or the GPU. joules, watts: total energy and
    mean power, idle power included; None if unknown. missing: why they are unknown. hertz: readings per second.
    uncertainty_j: error in joules if the first and last readings were as old as they can be. idle_watts: power before
    the run. per_picture_j: joules per picture.
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
    period_s: float  # seconds between two updates of the source

    def read(self) -> float:
        """Joules since a fixed moment. Raises OSError or ValueError if the source cannot be read."""
        ...


@dataclass
class Counter:
    """Energy counters of the machine, added up. wraps: the value after which each starts again at zero, or None.

    unit_j: joules per count.
    """

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
    """Power in watts, integrated over time by the trapezoidal rule."""

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
    """One meter over a span of time: first and last reading in joules, their count, or why there are none."""

    meter: Meter
    first: float = 0.0
    last: float = 0.0
    count: int = 0
    missing: str | None = None

    def take(self) -> None:
        """Reads the meter once, unless an earlier reading failed."""
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
        """The energy of the span, which lasted `seconds`."""
        energy = Energy(self.meter.source, self.meter.covers, missing=self.missing)
        if self.missing is not None:
            return energy
        joules = self.last - self.first
        if not joules > 0:
            return replace(energy, missing=f"{self.meter.source}: the counter did not move in {seconds:.3g} s")
        watts = joules / seconds
        return replace(
            energy,
            joules=joules,
            watts=watts,
            hertz=self.count / seconds,
            uncertainty_j=2 * self.meter.period_s * watts,
        )


@contextmanager
def metered(sources: Sequence[Meter]) -> Iterator[list[Energy]]:
    """Yields a list that holds the energy of each source after the block."""
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
    """Watts of each source while this process sleeps for `seconds`; an empty list at once without sources."""
    if not sources:
        return []
    with metered(sources) as found:
        time.sleep(seconds)
    return [energy.watts for energy in found]
