"""What LoRA files change: which of a model's weights, by which adapter, how much. Known before a tensor is read."""

from __future__ import annotations

import json
import math
import numbers
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.errors import CheckpointError, first_few
from latentrt.lora.adapters import FORMS, Form, Shape, change, matrix, shape_of_change
from latentrt.lora.names import part_of, weights_by_name
from latentrt.safetensors import StoredTensor, open_tensors
from latentrt.tensors import Array

METADATA = "lora_adapter_metadata"  # where diffusers notes peft's settings, alpha among them
FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Lora:
    """A LoRA file, and how much of it is added: `scale` to the UNet, `text_scale` to the text encoders.

    text_scale: None for the same as the UNet's.
    """

    file: Path
    scale: float = 1.0
    text_scale: float | None = None

    def scale_of(self, component: str) -> float:
        """How much of the file is added to a component."""
        return self.scale if component == "unet" or self.text_scale is None else self.text_scale


@dataclass(frozen=True)
class Change:
    """What a layer of a file adds to one weight of a component."""

    component: str
    weight: str
    tensors: Mapping[str, StoredTensor]
    form: Form
    scale: float

    def read(self) -> Array:
        """Returns what is added, the scale included: (out, in, ...) or (out, in * height * width), float32.

        Raises CheckpointError when the file has changed since it was opened.
        """
        tensors = {name: tensor.read() for name, tensor in self.tensors.items()}
        return np.float32(self.scale) * change(self.form, tensors)


def changes_of(lora: Lora, weights: Mapping[str, Mapping[str, Shape]], model: str, family: str) -> list[Change]:
    """Returns what a file changes in a model.

    Files are LoRA (convolutions and LoCon too), LoHa or LoKr in the key layouts of kohya, diffusers or peft, for the
    UNet and the text encoders. weights: the shapes of each component's tensors by the keys that they have in diffusers
    and transformers. model, family: names for messages. Raises CheckpointError for a file that is missing, damaged or
    no LoRA, for any key that is of no layer of the model, for any layer of another shape, and for a scale that is no
    finite number.
    """
    for scale in (lora.scale, lora.scale if lora.text_scale is None else lora.text_scale):
        if not isinstance(scale, numbers.Real) or not math.isfinite(scale):
            raise CheckpointError(f"{lora.file}: got the scale {scale!r}, expected a finite number such as 0.8")
    if not lora.file.is_file():
        raise CheckpointError(f"no LoRA at {lora.file}: expected a .safetensors file; nothing is downloaded here")
    opened = open_tensors(lora.file)
    layers = _layers(lora.file, opened.tensors)
    places = {
        name: (component, key)
        for component, shapes in weights.items()
        for name, key in weights_by_name(component, shapes).items()
    }
    strangers = [layer for layer in layers if layer not in places]
    if strangers:
        raise CheckpointError(
            f"{lora.file} changes layers that {model} ({family}) does not have: {first_few(strangers)}. It was made "
            f"for another family; give one for {family}"
        )
    settings = _settings(lora.file, opened.notes)
    found, misfits = [], []
    for layer, parts in layers.items():
        component, key = places[layer]
        form, shape = _form(lora.file, layer, parts)
        wanted = weights[component][key]
        if matrix(shape) != matrix(wanted):
            misfits.append(f"{component} {key} (got a change of shape {shape}, expected {wanted})")
        scale = lora.scale_of(component)
        scale = scale if "alpha" in parts else scale * _told(settings, component, key, parts)
        found.append(Change(component, key, parts, form, scale))
    if misfits:
        raise CheckpointError(
            f"{lora.file} does not fit {model} ({family}): {first_few(misfits)}. It was made for another family or "
            "width; give one for this model"
        )
    return found


def _layers(file: Path, tensors: Mapping[str, StoredTensor]) -> dict[str, dict[str, StoredTensor]]:
    """Returns the tensors of each layer by what they are; raises with every key that is none of a LoRA."""
    layers: dict[str, dict[str, StoredTensor]] = defaultdict(dict)
    unknown = []
    for key, stored in tensors.items():
        part = part_of(key)
        if part is None or (stored.dtype not in FLOATS and part[1] != "alpha"):
            unknown.append(f"{key} ({stored.dtype})")
        else:
            layers[part[0]][part[1]] = stored
    if unknown or not layers:
        what = "has no keys" if not tensors else f"is no LoRA: its keys are {first_few(unknown)}"
        if layers:
            what = f"has keys that are none of a LoRA's: {first_few(unknown)}"
        raise CheckpointError(
            f"{file} {what}; expected pairs such as *.lora_down.weight and *.lora_up.weight (kohya) or *.lora_A.weight "
            "and *.lora_B.weight (peft), or LoHa's and LoKr's hada_* and lokr_*, as floats"
        )
    return layers


def _form(file: Path, layer: str, parts: Mapping[str, StoredTensor]) -> tuple[Form, Shape]:
    """Returns what kind of adapter the tensors are, and the shape of the change that they make."""
    for form in FORMS:
        if form.tensors & parts.keys() and parts.keys() <= form.tensors | {"alpha"}:
            shapes = {name: stored.shape for name, stored in parts.items()}
            try:
                return form, shape_of_change(form, shapes)
            except (KeyError, IndexError, ValueError) as error:
                listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
                raise CheckpointError(
                    f"{file}: the tensors of {layer} make no {form.name} together ({listed}); fetch the file again"
                ) from error
    kinds = ", ".join(form.name for form in FORMS)
    raise CheckpointError(f"{file}: {layer} has {', '.join(parts)}, expected the tensors of one of {kinds}")


def _settings(file: Path, notes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns peft's settings as diffusers notes them in a file, "unet.lora_alpha" and so on; empty where it has not.

    Raises CheckpointError when they cannot be read.
    """
    try:
        return dict(json.loads(notes.get(METADATA, "{}")))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: {METADATA} in its header is no json object; save the LoRA again") from error


def _told(settings: Mapping[str, Any], component: str, key: str, parts: Mapping[str, StoredTensor]) -> float:
    """Returns alpha / rank as the settings have it; 1 where they say nothing."""
    if "down" not in parts or (alpha := settings.get(f"{component}.lora_alpha")) is None:
        return 1.0
    path = key.removesuffix(".weight").removeprefix("text_model.")
    for pattern, other in (settings.get(f"{component}.alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?{pattern.replace('text_model.', '')}", path):
            alpha = other
    rank = parts["down"].shape[0]
    return float(alpha / (math.sqrt(rank) if settings.get(f"{component}.use_rslora") else rank))
