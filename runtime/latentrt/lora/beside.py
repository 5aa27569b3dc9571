"""LoRA files beside weights in few bits, in which they would be lost: less than half a step rounds to none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentrt.engines.onnx.branches import Branch
from latentrt.lora.applying import Changes, apply_all, rounded
from latentrt.lora.places import Decoded
from latentrt.tensors import Array


@dataclass(frozen=True)
class Beside:
    """All changes of a weight in few bits. They add to it, whatever its value.

    Where all are products of two narrow matrices, and a product of the graph reads the weight, they stand beside that
    product. Otherwise their sum, as large as the weight in float, is added to what the weight is decoded to.
    """

    changes: Changes

    @property
    def decoded(self) -> Decoded:
        """The weight as the graph decodes it."""
        decoded = self.changes[0][0].initializer
        assert isinstance(decoded, Decoded)
        return decoded

    @property
    def narrow(self) -> bool:
        """Whether the changes stand beside the product."""
        return bool(self.decoded.product) and all(change.has_factors for _, change in self.changes)

    @property
    def output(self) -> str:
        """The value of the graph that the branch is added to."""
        return self.decoded.product if self.narrow else self.changes[0][0].name

    def read(self) -> Branch:
        """Returns the branch, computed in float32 and rounded once to the graph's type.

        Raises CheckpointError if a file has changed, or if its numbers are not finite.
        """
        made = self._factors() if self.narrow else (self._sum(),)
        return Branch(tuple(rounded(one, self.decoded.dtype, self.changes, "decoded") for one in made))

    def _factors(self) -> tuple[Array, Array]:
        """Matrices of all changes side by side, (in, ranks) and (ranks, out)."""
        first, second = list[Array](), list[Array]()
        for place, change in self.changes:
            up, down = change.factors()
            wide = np.zeros((len(down), self.decoded.shape[-1 if place.transposed else 0]), np.float32)
            wide[:, place.rows] = up.T
            first.append(down.T)
            second.append(wide)
        return np.concatenate(first, 1), np.concatenate(second)

    def _sum(self) -> Array:
        """What all changes add to the weight, in its shape in the graph."""
        whole = np.zeros(self.decoded.shape, np.float32)
        apply_all(whole, self.changes)
        return whole
