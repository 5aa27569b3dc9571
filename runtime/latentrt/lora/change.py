"""The change of one weight by one layer of a LoRA file: the kind of adapter in its tensors, and its application."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentrt.errors import CheckpointError
from latentrt.lora.adapters import ADDED, BIASES, Adapter, Shape, Tensors, change, low_rank, shape_of_change, unscaled
from latentrt.lora.decomposed import MAGNITUDES, axis_of, decomposed
from latentrt.lora.multiplied import MULTIPLIED
from latentrt.storage.safetensors import StoredTensor
from latentrt.tensors import Array

WEIGHTS = (*ADDED, *MULTIPLIED)
ALPHA = "alpha"
REMEDY = "fetch the file again, or save it anew with the tool that made it"

Parts = Mapping[str, StoredTensor]


@dataclass(frozen=True)
class Change:
    """The change of one weight, or bias, of a component by a layer of a file.

    tensors: by their names in the layer. scale: the file's scale. factor: alpha / rank from the file's settings, for
    an adapter without an alpha tensor.
    """

    file: Path
    layer: str
    component: str
    weight: str
    tensors: Parts
    adapter: Adapter
    scale: float
    factor: float = 1.0

    def apply(self, weight: Array) -> Array:
        """Returns the new weight, float32 of the same shape.

        weight: float32, with all earlier changes applied. Raises CheckpointError if the file has changed since it was
        opened, or if its numbers or the new weight are not finite.
        """
        tensors = self._read()
        try:
            with np.errstate(all="ignore"):
                changed = self._changed(weight, tensors)
        except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
            raise CheckpointError(f"{self.file}: {self.layer} cannot be applied ({error}); {REMEDY}") from error
        self._check(changed)
        return changed

    @property
    def adds(self) -> bool:
        """Whether what is added does not depend on the weight."""
        return self.adapter in (*ADDED, *BIASES) and not self.tensors.keys() & set(MAGNITUDES)

    @property
    def has_factors(self) -> bool:
        """Whether what is added to a matrix is the product of two narrow ones, which `factors` returns."""
        return self.adds and {"up", "down"} <= self.tensors.keys() and "mid" not in self.tensors

    def factors(self) -> tuple[Array, Array]:
        """Returns the matrices whose product is added to a matrix, (out, rank) and (rank, in), both float32.

        The scale is in the first. Raises CheckpointError as `apply`.
        """
        up, down = low_rank(self._read())
        with np.errstate(over="ignore"):
            scaled: Array = np.float32(self.scale * self.factor) * up
        self._check(scaled)
        return scaled, down

    def _read(self) -> dict[str, Array]:
        tensors = {name: tensor.read() for name, tensor in self.tensors.items()}
        infinite = [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]
        if infinite:
            raise CheckpointError(
                f"{self.file}: {infinite[0]} of {self.layer} has numbers that are not finite; {REMEDY}"
            )
        return tensors

    def _check(self, made: Array) -> None:
        if not np.isfinite(made).all():
            raise CheckpointError(
                f"{self.file}: {self.layer} makes weights that are not finite, at a scale of {self.scale:g}; give a "
                f"smaller one, or {REMEDY}"
            )

    def _changed(self, weight: Array, tensors: Tensors) -> Array:
        magnitudes = [name for name in MAGNITUDES if name in tensors]
        rest = {name: tensor for name, tensor in tensors.items() if name not in magnitudes}
        if not magnitudes:
            added = np.float32(self.scale * self.factor) * change(self.adapter, rest, weight)
            return weight + added.reshape(weight.shape)
        added = np.float32(self.factor) * change(self.adapter, rest, weight)
        [kind] = magnitudes
        return decomposed(weight, added.reshape(weight.shape), tensors[kind], kind, np.float32(self.scale))


def adapters_of(file: Path, layer: str, parts: Parts) -> list[tuple[bool, Adapter, Parts]]:
    """Returns the adapters of a layer, one of its weight, one of its bias or both: (is of the bias, kind, tensors).

    An alpha that scales nothing is ignored. Raises CheckpointError for tensors of several kinds, or of an unknown one.
    """
    found = [(kinds is BIASES, *one) for kinds in (WEIGHTS, BIASES) if (one := adapter_of(file, layer, parts, kinds))]
    unused = parts.keys() - {ALPHA}.union(*(tensors for _, _, tensors in found))
    if unused:
        kinds = ", ".join(adapter.name for adapter in WEIGHTS)
        raise CheckpointError(f"{file}: {layer} has {', '.join(parts)}, expected the tensors of one of {kinds}")
    return found


def adapter_of(file: Path, layer: str, parts: Parts, kinds: Sequence[Adapter]) -> tuple[Adapter, Parts] | None:
    """The one of these kinds that the tensors are, and its tensors, with alpha and DoRA's magnitude; None for none."""
    chosen = [adapter for adapter in kinds if adapter.distinctive & parts.keys()]
    magnitudes = [name for name in MAGNITUDES if name in parts and kinds is WEIGHTS]
    if len(chosen) > 1 or len(magnitudes) > 1:
        several = magnitudes if len(chosen) < 2 else [adapter.name for adapter in chosen]
        raise CheckpointError(f"{file}: {layer} has tensors of {' and of '.join(several)}, expected one kind; {REMEDY}")
    if not chosen:
        return None
    extra = {ALPHA, *(magnitudes if chosen[0].rank is not unscaled else ())}
    return chosen[0], {name: part for name, part in parts.items() if name in chosen[0].tensors | extra}


def shape_of(file: Path, layer: str, adapter: Adapter, parts: Parts, wanted: Shape) -> Shape:
    """Returns the shape of the array that an adapter adds to a weight of shape `wanted`.

    Raises CheckpointError if its tensors do not fit each other, or if its alpha is not one number.
    """
    shapes = {name: stored.shape for name, stored in parts.items()}
    if math.prod(shapes.get(ALPHA, ())) != 1:
        raise CheckpointError(f"{file}: alpha of {layer} has the shape {shapes[ALPHA]}, expected one number; {REMEDY}")
    try:
        for kind in MAGNITUDES:
            if kind in shapes:
                axis_of(shapes[kind], wanted, kind)
        return shape_of_change(adapter, shapes, wanted)
    except (KeyError, IndexError, ValueError) as error:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise CheckpointError(
            f"{file}: the tensors of {layer} do not fit each other as {adapter.name} ({listed}); fetch the file again"
        ) from error
