"""Step caching: which calls of the model are full, and the values that full calls leave for those between them.

"DeepCache", Ma et al. (2023), reuses features of every N-th call. Two things differ here. The last call is full, since
its estimate is the picture, and no later call corrects it. And calls are placed by their distance in time, because a
grid such as Karras et al.'s may spend half of its calls at nearly the same noise.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Sequence, Set
from dataclasses import dataclass, field
from itertools import accumulate, combinations, pairwise
from typing import Any, Literal

import numpy as np

from latentrt.tensors import Array

Cached = Literal["features", "features+guidance", "guidance", "prediction"]


def full_calls(timesteps: Sequence[float], every: int) -> frozenset[int]:
    """Returns the numbers of the full calls: one in `every`, the first of them the first call; and the last call.

    timesteps: of each call. As many calls are full as by counting, as evenly apart in time as that number allows. Of 20
    calls on an even grid and one in 3, these are calls 0, 3, 6 ... 18 and 19.
    """
    count = len(timesteps)
    wanted = len({*range(0, count, every), count - 1})
    passed = [0.0, *accumulate(abs(after - before) for before, after in pairwise(timesteps))]
    # The least distance that leaves few enough is one between two calls.
    distances = sorted({after - before for before, after in combinations(passed, 2)})
    fewest = bisect_left(distances, -wanted, key=lambda least: -len(spaced(passed, least)))
    found = spaced(passed, distances[fewest]) if fewest < len(distances) else {0, count - 1}
    while len(found) < wanted:
        found.add(stalest(passed, found))
    return frozenset(found)


def spaced(passed: Sequence[float], least: float) -> set[int]:
    """The first call, each call at least `least` after the full one before, and the last. passed: until each call."""
    found, last = {0, len(passed) - 1}, 0
    for call, time in enumerate(passed):
        if call and time - passed[last] >= least:
            found.add(call)
            last = call
    return found


def stalest(passed: Sequence[float], full: Set[int]) -> int:
    """The call that brings most if it is full: the time since the full one before, for each call up to the next one.

    Of several, the last, where errors are corrected least.
    """
    order = sorted(full)
    gains = {
        call: ((passed[call] - passed[first]) * (last - call), call)
        for first, last in pairwise(order)
        for call in range(first + 1, last)
    }
    return max(gains, key=lambda call: gains[call])


@dataclass
class History:
    """The values of full calls, by key, and what they say of a later call.

    order: 0 repeats the last value; 1 goes on along the line through the last two, if there are two. read: gives the
    array of a value, which may be elsewhere until then.
    """

    order: int = 0
    read: Callable[[Any], Array] = np.asarray
    values: dict[Hashable, list[tuple[float, Any]]] = field(default_factory=dict)

    def keep(self, key: Hashable, time: float, value: Any) -> None:
        """Keeps the value of a full call at a timestep; a second one at the same timestep replaces the first."""
        kept = [(at, one) for at, one in self.values.get(key, []) if at != time]
        self.values[key] = [*kept, (time, value)][-1 - self.order :]

    def last(self, key: Hashable) -> Any:
        """The value of the last full call, as it was kept."""
        return self.values[key][-1][1]

    def at(self, key: Hashable, time: float) -> Array:
        """The array for a call at a timestep, of the kept values' type."""
        *before, (last, kept) = self.values[key]
        value = self.read(kept)
        if not before:
            return value
        ((first, earlier),) = before
        share = np.float32((time - last) / (last - first))
        line: Array = value + share * (value.astype(np.float32) - self.read(earlier))
        return line.astype(value.dtype)
