"""What LoRA files change: which of a model's weights, by which adapter, how much. Known before a tensor is read."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from latentrt.errors import CheckpointError, first_few
from latentrt.lora.adapters import Form, Shape, matrix
from latentrt.lora.change import ALPHA, REMEDY, Change, Parts, forms_of, shape_of
from latentrt.lora.decomposed import PEFT
from latentrt.lora.layers import found_file, layers_in, word_of
from latentrt.lora.names import is_named, weights_by_name
from latentrt.lora.peft_config import Settings, settings_of
from latentrt.lora.refused import family_of
from latentrt.storage.safetensors import open_tensors

Shapes = Mapping[str, Mapping[str, Shape]]
# Each layer's places in a model by its name: components and the keys of weights there.
Places = Mapping[str, list[tuple[str, str]]]


@dataclass(frozen=True)
class Lora:
    """A LoRA file, and how much of it is added: `scale` to the UNet, `text_scale` to the text encoders.

    file: or a folder that holds one, as peft and diffusers save them. text_scale: None for the same as the UNet's.
    """

    file: Path
    scale: float = 1.0
    text_scale: float | None = None

    def scale_of(self, component: str) -> float:
        """How much of the file is added to a component."""
        return self.scale if component == "unet" or self.text_scale is None else self.text_scale


@dataclass(frozen=True)
class Target:
    """A weight that a layer of a file changes, and the kind of adapter, with its tensors, that does."""

    layer: str
    component: str
    key: str
    form: Form
    parts: Parts


def changes_of(lora: Lora, weights: Shapes, model: str, family: str) -> list[Change]:
    """Returns what a file changes in a model, in the order of its keys.

    Files are of any kind in `adapters` and `multiplied`, DoRA's magnitudes among them, in the key layouts of kohya,
    diffusers, peft, LyCORIS or ComfyUI, for the UNet and the text encoders. weights: the shapes of each component's
    tensors by the keys that they have in diffusers and transformers. model, family: names for messages. Raises
    CheckpointError for a file that is missing, damaged or no LoRA, for any key that is of no layer of the model, for
    any layer of another shape, for kinds that are not applied, and for a scale that is no finite number.
    """
    for scale in (lora.scale, lora.scale if lora.text_scale is None else lora.text_scale):
        if not isinstance(scale, numbers.Real) or not abs(scale) < math.inf:
            raise CheckpointError(f"{lora.file}: got the scale {scale!r}, expected a finite number such as 0.8")
    file = found_file(lora.file)
    opened = open_tensors(file)
    layers, settings = layers_in(file, opened.tensors), settings_of(file, opened.notes)
    places = places_of(weights)
    check_names(file, layers, places, model, family)
    targets, misfits = [], []
    for layer, parts in layers.items():
        for is_bias, form, mine in forms_of(file, layer, parts):
            target, misfit = fitted(file, Target(layer, *places[layer][0], form, mine), is_bias, places, weights)
            targets.append(target)
            misfits += misfit
    if misfits:
        raise CheckpointError(
            f"{file} does not fit {model} ({family}): {first_few(misfits)}. It was made for another family or "
            "width; give one for this model"
        )
    check_twice(file, targets)
    if layers and not targets:
        raise CheckpointError(f"{file} has alphas ({first_few([*layers])}) and nothing that they scale; {REMEDY}")
    return [change_of(lora, file, target, settings) for target in targets]


def bundled_words(file: Path) -> tuple[str, ...]:
    """Returns the words of textual inversion that a LoRA file brings along, in the order of its keys.

    Raises CheckpointError for a file that is missing or damaged.
    """
    words = [word_of(key) for key in open_tensors(found_file(file)).tensors]
    return tuple(dict.fromkeys(word for word in words if word is not None))


def places_of(weights: Shapes) -> Places:
    """Where each layer that a file may name lies; several where encoders are called the same."""
    places: dict[str, list[tuple[str, str]]] = {}
    for component, shapes in weights.items():
        for name, key in weights_by_name(component, shapes).items():
            places.setdefault(name, []).append((component, key))
    return places


def check_names(file: Path, layers: Mapping[str, Parts], places: Places, model: str, family: str) -> None:
    """Raises CheckpointError for layers that the model does not have, and for names that are of none that is known."""
    strangers = [layer for layer in layers if layer not in places]
    if not strangers:
        return
    other = family_of(strangers)
    odd = [layer for layer in strangers if not is_named(layer)]
    if odd and other is None:
        raise CheckpointError(
            f"{file} calls layers by names that are not known: {first_few(odd)}; expected those of kohya "
            "(lora_unet_..., lora_te_...), diffusers (unet...., text_encoder....), ComfyUI (diffusion_model...., "
            "text_encoders.clip_l....), LyCORIS (lycoris_...) or peft; save it anew in one of these"
        )
    raise CheckpointError(
        f"{file} changes layers that {model} ({family}) does not have: {first_few(strangers)}. It was made for "
        f"{other or 'another family'}; give one for {family}"
    )


def check_twice(file: Path, targets: Sequence[Target]) -> None:
    """Raises CheckpointError for a weight that is changed by two layers, which are names of the same one."""
    found: dict[tuple[str, str], str] = {}
    for target in targets:
        other = found.setdefault((target.component, target.key), target.layer)
        if other != target.layer:
            raise CheckpointError(
                f"{file} changes {target.component} {target.key} twice, as {other} and as {target.layer}; save the "
                "adapters in a file each"
            )


def fitted(file: Path, target: Target, is_bias: bool, places: Places, weights: Shapes) -> tuple[Target, list[str]]:
    """Returns the target where its shape fits, of those that have its layer's name; else a line that says how not."""
    misfits, errors = [], []
    for component, weight in places[target.layer]:
        key = weight.removesuffix("weight") + "bias" if is_bias else weight
        wanted = weights[component].get(key)
        if wanted is None:
            misfits.append(f"{component} {key} (got a change of it, the layer has no bias)")
            continue
        try:
            shape = shape_of(file, target.layer, target.form, target.parts, wanted)
        except CheckpointError as error:
            errors.append(error)
            continue
        if shape and matrix(shape) == matrix(wanted):
            return replace(target, component=component, key=key), []
        misfits.append(f"{component} {key} (got a change of shape {shape}, expected {wanted})")
    if not misfits:
        raise errors[0]
    return target, misfits


def change_of(lora: Lora, file: Path, target: Target, settings: Settings) -> Change:
    """The change that a target is, with what the settings say of it."""
    shapes = {name: stored.shape for name, stored in target.parts.items()}
    told = ALPHA not in target.parts
    factor = settings.factor(target.component, target.key, target.form, shapes) if told else 1.0
    if settings.of(target.component, "use_dora") and "up" in shapes and PEFT not in shapes:
        raise CheckpointError(
            f"{file}: {settings.place} says use_dora, and {target.layer} has no {PEFT}; save the LoRA again"
        )
    scale = float(lora.scale_of(target.component))
    return Change(file, target.layer, target.component, target.key, target.parts, target.form, scale, factor)
