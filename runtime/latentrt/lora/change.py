"""What one layer of a LoRA file makes of a weight: which kind of adapter its tensors are, and how it is applied."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentrt.errors import CheckpointError
from latentrt.lora.adapters import ADDED, BIASES, Form, Shape, Tensors, change, shape_of_change, unscaled
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
    """What a layer of a file makes of one weight, or bias, of a component.

    tensors: by their names in the layer. scale: how much of the file is added. factor: what an adapter without an alpha
    of its own is scaled by besides, as the settings of the file have it.
    """

    file: Path
    layer: str
    component: str
    weight: str
    tensors: Parts
    form: Form
    scale: float
    factor: float = 1.0

    def apply(self, weight: Array) -> Array:
        """Returns the new weight, float32 of the same shape.

        weight: as the changes before this one left it, float32. Raises CheckpointError when the file has changed since
        it was opened, and where it, or what it makes, is not finite.
        """
        tensors = {name: tensor.read() for name, tensor in self.tensors.items()}
        wrong = [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]
        if wrong:
            raise CheckpointError(f"{self.file}: {wrong[0]} of {self.layer} has numbers that are not finite; {REMEDY}")
        try:
            with np.errstate(all="ignore"):
                changed = self._changed(weight, tensors)
        except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
            raise CheckpointError(f"{self.file}: {self.layer} cannot be applied ({error}); {REMEDY}") from error
        if not np.isfinite(changed).all():
            raise CheckpointError(
                f"{self.file}: {self.layer} makes weights that are not finite, at a scale of {self.scale:g}; give a "
                f"smaller one, or {REMEDY}"
            )
        return changed

    def _changed(self, weight: Array, tensors: Tensors) -> Array:
        magnitudes = [name for name in MAGNITUDES if name in tensors]
        rest = {name: tensor for name, tensor in tensors.items() if name not in magnitudes}
        if not magnitudes:
            added = np.float32(self.scale * self.factor) * change(self.form, rest, weight)
            return weight + added.reshape(weight.shape)
        added = np.float32(self.factor) * change(self.form, rest, weight)
        [kind] = magnitudes
        return decomposed(weight, added.reshape(weight.shape), tensors[kind], kind, np.float32(self.scale))


def forms_of(file: Path, layer: str, parts: Parts) -> list[tuple[bool, Form, Parts]]:
    """Returns what kinds of adapter a layer's tensors are, and which of them each has; whether it is of the bias first.

    Nothing for an alpha that has nothing to scale. Raises CheckpointError for tensors of several kinds, and of none.
    """
    found = [(forms is BIASES, *one) for forms in (WEIGHTS, BIASES) if (one := form_of(file, layer, parts, forms))]
    left = parts.keys() - {ALPHA}.union(*(mine for _, _, mine in found))
    if left:
        kinds = ", ".join(form.name for form in WEIGHTS)
        raise CheckpointError(f"{file}: {layer} has {', '.join(parts)}, expected the tensors of one of {kinds}")
    return found


def form_of(file: Path, layer: str, parts: Parts, forms: Sequence[Form]) -> tuple[Form, Parts] | None:
    """Which of some kinds the tensors are, and those that it has, alpha and DoRA's magnitude among them."""
    chosen = [form for form in forms if form.own & parts.keys()]
    magnitudes = [name for name in MAGNITUDES if name in parts and forms is WEIGHTS]
    if len(chosen) > 1 or len(magnitudes) > 1:
        several = magnitudes if len(chosen) < 2 else [form.name for form in chosen]
        raise CheckpointError(f"{file}: {layer} has tensors of {' and of '.join(several)}, expected one kind; {REMEDY}")
    if not chosen:
        return None
    beside = {ALPHA, *(magnitudes if chosen[0].rank is not unscaled else ())}
    return chosen[0], {name: part for name, part in parts.items() if name in chosen[0].tensors | beside}


def shape_of(file: Path, layer: str, form: Form, parts: Parts, wanted: Shape) -> Shape:
    """Returns the shape of what an adapter adds to a weight of shape `wanted`.

    Raises CheckpointError where its tensors do not go together, or with an alpha that is no number.
    """
    shapes = {name: stored.shape for name, stored in parts.items()}
    if math.prod(shapes.get(ALPHA, ())) != 1:
        raise CheckpointError(f"{file}: alpha of {layer} has the shape {shapes[ALPHA]}, expected one number; {REMEDY}")
    try:
        for kind in MAGNITUDES:
            if kind in shapes:
                axis_of(shapes[kind], wanted, kind)
        return shape_of_change(form, shapes, wanted)
    except (KeyError, IndexError, ValueError) as error:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise CheckpointError(
            f"{file}: the tensors of {layer} make no {form.name} together ({listed}); fetch the file again"
        ) from error
