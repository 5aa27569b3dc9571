"""LoRA files fused into a checkpoint: what each of their keys changes is known before a weight is read.

A component adds the changes to its weights as it loads, before anything is split: cross-attention's keys and values and
the time projections take theirs along to wherever they go.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from latentrt.bundle import sha256_of
from latentrt.errors import CheckpointError
from latentrt.export.adapters import FORMS, Form, change
from latentrt.export.families import first_few
from latentrt.export.load import FLOATS, Checkpoint, Fused, Stored, header
from latentrt.export.lora_names import part_of, weights_by_name

METADATA = "lora_adapter_metadata"  # where diffusers notes peft's settings, alpha among them


@dataclass(frozen=True)
class Lora:
    """A LoRA file, and how much of it is added."""

    file: Path
    scale: float = 1.0


def with_loras(checkpoint: Checkpoint, loras: Sequence[Lora]) -> Checkpoint:
    """Returns the checkpoint with all of `loras` to be added to its weights, in that order, when they are loaded.

    Files are LoRA (convolutions and LoCon too), LoHa or LoKr in the key layouts of kohya, diffusers or peft, for the
    UNet and the text encoders. Raises CheckpointError for a file that is missing, damaged or no LoRA, for any key that
    is of no layer of the checkpoint, and for any layer of another shape.
    """
    fused: dict[str, list[Fused]] = defaultdict(list)
    for lora in loras:
        for component, one in _changes(lora, checkpoint):
            fused[component].append(one)
    components = {
        name: replace(component, fused=(*component.fused, *fused[name]))
        for name, component in checkpoint.components.items()
    }
    return replace(checkpoint, components=components)


def loras_provenance(loras: Sequence[Lora]) -> dict[str, str]:
    """What a bundle says of the files that were fused into it, by their place."""
    return {
        f"lora {place}": f"{lora.file.name}, scale {lora.scale:g}, sha256 {sha256_of(lora.file)}"
        for place, lora in enumerate(loras, 1)
    }


def _changes(lora: Lora, checkpoint: Checkpoint) -> Iterator[tuple[str, Fused]]:
    if not math.isfinite(lora.scale):
        raise CheckpointError(f"{lora.file}: got the scale {lora.scale}, expected a finite number such as 0.8")
    if not lora.file.is_file():
        raise CheckpointError(f"no LoRA at {lora.file}: expected a .safetensors file; nothing is downloaded here")
    tensors = header(lora.file)
    layers = _layers(lora.file, tensors)
    places = {
        flat: (name, key)
        for name, component in checkpoint.components.items()
        for flat, key in weights_by_name(name, component.config, component.weights).items()
    }
    strangers = [layer for layer in layers if layer not in places]
    if strangers:
        raise CheckpointError(
            f"{lora.file} changes layers that {checkpoint.source} ({checkpoint.family.name}) does not have: "
            f"{first_few(strangers)}. It was made for another family; give one for {checkpoint.family.name}"
        )
    settings = _settings(lora.file)
    misfits = []
    for layer, parts in layers.items():
        component, key = places[layer]
        form, shape = _form(lora.file, layer, parts)
        wanted = checkpoint.components[component].weights[key].shape
        if _as_matrix(shape) != _as_matrix(wanted):
            misfits.append(f"{component} {key} (got a change of shape {shape}, expected {wanted})")
        scale = lora.scale if "alpha" in parts else lora.scale * _told(settings, component, key, parts)
        yield component, Fused(key, parts, form, scale)
    if misfits:
        raise CheckpointError(
            f"{lora.file} does not fit {checkpoint.source} ({checkpoint.family.name}): {first_few(misfits)}. It was "
            "made for another family or width; give one for this checkpoint"
        )


def _layers(file: Path, tensors: Mapping[str, Stored]) -> dict[str, dict[str, Stored]]:
    """Returns the tensors of each layer by what they are; raises with every key that is none of a LoRA."""
    layers: dict[str, dict[str, Stored]] = defaultdict(dict)
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


def _form(file: Path, layer: str, parts: Mapping[str, Stored]) -> tuple[Form, tuple[int, ...]]:
    """Returns what kind of adapter the tensors are, and the shape of the change that they make."""
    for form in FORMS:
        if form.tensors & parts.keys() and parts.keys() <= form.tensors | {"alpha"}:
            stand_ins = {name: torch.empty(stored.shape, device="meta") for name, stored in parts.items()}
            try:
                return form, tuple(change(form, stand_ins).shape)
            except (KeyError, IndexError, RuntimeError) as error:
                shapes = ", ".join(f"{name} {stored.shape}" for name, stored in parts.items())
                raise CheckpointError(
                    f"{file}: the tensors of {layer} make no {form.name} together ({shapes}); fetch the file again"
                ) from error
    kinds = ", ".join(form.name for form in FORMS)
    raise CheckpointError(f"{file}: {layer} has {', '.join(parts)}, expected the tensors of one of {kinds}")


def _as_matrix(shape: Sequence[int]) -> tuple[int, int]:
    return shape[0], math.prod(shape[1:])


def _settings(file: Path) -> dict[str, Any]:
    """Returns peft's settings as diffusers notes them in a file, "unet.lora_alpha" and so on; empty where it has not.

    Raises CheckpointError when they cannot be read.
    """
    with safe_open(file, framework="pt") as opened:
        noted = (opened.metadata() or {}).get(METADATA, "{}")
    try:
        return dict(json.loads(noted))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: {METADATA} in its header is no json object; save the LoRA again") from error


def _told(settings: Mapping[str, Any], component: str, key: str, parts: Mapping[str, Stored]) -> float:
    """Returns alpha / rank as the settings have it; 1 where they say nothing."""
    if "down" not in parts or (alpha := settings.get(f"{component}.lora_alpha")) is None:
        return 1.0
    path = key.removesuffix(".weight").removeprefix("text_model.")
    for pattern, other in (settings.get(f"{component}.alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?{pattern.replace('text_model.', '')}", path):
            alpha = other
    rank = parts["down"].shape[0]
    return float(alpha / (math.sqrt(rank) if settings.get(f"{component}.use_rslora") else rank))
