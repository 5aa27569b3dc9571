"""The step cache of a run: what full calls of the denoiser leave for the calls between them, by tile and row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from latentrt.conditioning.prompts import Row
from latentrt.request.step_cache import CachePlan
from latentrt.sampling.step_cache import History
from latentrt.sampling.tiling import Tile
from latentrt.tensors import Array, Tensor

Place = tuple[int, int] | None  # of a tile, its first row and column


@dataclass(frozen=True, eq=False)
class Part:
    """A row's part of the features of a call. number: of the row among the call's `rows`."""

    features: Tensor
    number: int
    rows: int

    def array(self) -> Array:
        """The features of the row, (pictures, ...)."""
        found: Array = np.split(np.asarray(self.features), self.rows)[self.number]
        return found


@dataclass
class StepCache:
    """The state of a run.

    number: of the current call. full: whether it computes everything. A call is full if the plan says so, or if a row
    has nothing from the last full call, such as a prompt that was edited, or guidance that begins.
    """

    plan: CachePlan
    number: int = 0
    full: bool = True
    place: Place = None
    features: History = field(init=False)
    outputs: History = field(init=False)
    counts: dict[Place, int] = field(default_factory=dict)
    last: dict[Place, int] = field(default_factory=dict)
    known: dict[tuple[Place, Row], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Makes the histories, of the order that the plan says."""
        self.features = History(self.plan.spec.order, Part.array)
        self.outputs = History(self.plan.spec.order)

    @property
    def time(self) -> float:
        """The timestep of the current call."""
        return self.plan.timesteps[self.number]

    def begin(self, rows: Sequence[Row], window: Tile | None) -> None:
        """Begins the next call of a tile, for these rows."""
        place = None if window is None else (int(window[0][0, 0]), int(window[1][0]))
        self.place, self.number = place, self.counts.get(place, 0)
        self.counts[place] = self.number + 1
        last = self.last.get(place, -1)
        fresh = all(self.known.get((place, row)) == last for row in rows)
        self.full = self.number in self.plan.full or not fresh
        if self.full:
            self.last[place] = self.number
            self.known |= {(place, row): self.number for row in rows}

    def predictions(self, predict: Callable[[Sequence[Row]], list[Array]], rows: Sequence[Row]) -> list[Array]:
        """The prediction of each row: by `predict`, or from what was kept. Negative rows come first."""
        spec = self.plan.spec
        if self.full:
            found = predict(rows)
            self.keep_outputs(rows, found)
            return found
        if spec.of == "prediction":
            return [self.outputs.at(self.key(row), self.time) for row in rows]
        if not spec.guidance:
            return predict(rows)
        first, *others = predict([row for row in rows if not row.negative])
        kept = (self.outputs.at(self.key(row), self.time) for row in rows if row.negative)
        return [*(first + difference for difference in kept), first, *others]

    def keep_outputs(self, rows: Sequence[Row], found: Sequence[Array]) -> None:
        """Keeps the predictions of a full call, or how far the negative ones are from the first positive one."""
        spec = self.plan.spec
        if spec.of == "prediction":
            for row, one in zip(rows, found, strict=True):
                self.outputs.keep(self.key(row), self.time, one)
        elif spec.guidance:
            positive = next(one for row, one in zip(rows, found, strict=True) if not row.negative)
            for row, one in zip(rows, found, strict=True):
                if row.negative:
                    self.outputs.keep(self.key(row), self.time, one - positive)

    @property
    def shallow(self) -> bool:
        """Whether the current call is one of the shallow denoiser."""
        return not self.full and self.plan.spec.features

    def features_of(self, rows: Sequence[Row]) -> Tensor:
        """The features that a call of the shallow denoiser takes for these rows.

        Those of a call of the same rows are one tensor, which does not leave its device.
        """
        parts: list[Part] = [self.features.last(self.key(row)) for row in rows]
        whole = [(id(parts[0].features), number, len(rows)) for number in range(len(rows))]
        if self.plan.spec.order == 0 and [(id(one.features), one.number, one.rows) for one in parts] == whole:
            return parts[0].features
        return np.concatenate([self.features.at(self.key(row), self.time) for row in rows])

    def keep_features(self, rows: Sequence[Row], features: Tensor) -> None:
        """Keeps the features of a full call, (rows * pictures, ...), row by row."""
        for number, row in enumerate(rows):
            self.features.keep(self.key(row), self.time, Part(features, number, len(rows)))

    def key(self, row: Row) -> tuple[Place, Row]:
        """The key of a row of the current tile."""
        return self.place, row
