"""What a drawn picture shows: every picture of the set, by its distance from the drawn one on the same background.

The distance is that of features.py, of the two ways to mirror a picture the smaller where it may be mirrored at all. It
is the drawn picture that is mirrored: the distance is the same, and a reference needs one feature.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from emoji import compose
from emoji.compose import Array
from emoji.features import distances, feature
from emoji.index import Row
from emoji.words import COLOURS


@dataclass(frozen=True)
class Neighbours:
    """The labels of the set and how far each picture is from a drawn one."""

    labels: Sequence[str]
    distances: Array

    @property
    def nearest(self) -> str:
        """Return the label of the nearest picture."""
        return self.labels[int(self.distances.argmin())]

    def distance(self, label: str) -> float:
        """Return how far the picture of a label is."""
        return float(self.distances[self.labels.index(label)])

    def rank(self, label: str) -> int:
        """Return the place of a label, 1 for the nearest: one more than the number of pictures that are nearer."""
        return 1 + int((self.distances < self.distance(label)).sum())


@dataclass
class Set:
    """Every picture of the set as a cut-out, with its label; features are computed once for each background."""

    labels: Sequence[str]
    cutouts: Sequence[Array]
    known: dict[str, Array] = field(default_factory=dict, repr=False)

    def features(self, colour: str) -> Array:
        """Return the feature of every picture on a named colour: (pictures, 4096) float32."""
        if colour not in self.known:
            on = (compose.on_background(cutout, COLOURS[colour]) for cutout in self.cutouts)
            self.known[colour] = np.stack([feature(picture) for picture in on])
        return self.known[colour]

    def neighbours(self, picture: Array, colour: str = "white") -> Neighbours:
        """Return how far every picture of the set, on a named colour, is from `picture`: (side, side, 3) in [0, 1]."""
        both = np.stack([feature(picture), feature(compose.mirror(picture))])
        straight, mirrored = distances(both, self.features(colour))
        return Neighbours(self.labels, np.where(self.may_mirror, np.minimum(straight, mirrored), straight))

    @property
    def may_mirror(self) -> NDArray[np.bool_]:
        """Return which pictures are still right when left and right are changed: (pictures,)."""
        return np.array([compose.may_mirror(label) for label in self.labels])


def load(rows: Sequence[Row]) -> Set:
    """Return the pictures of an index."""
    return Set([row.label for row in rows], [compose.load(row.path) for row in rows])
