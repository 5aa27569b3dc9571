"""Changes of a model by LoRA files: the weights, the adapters and the scales, known before any tensor is read."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from latentrt.bundle.sources import DENOISERS
from latentrt.errors import CheckpointError, first_few
from latentrt.lora.adapters import Adapter, Shape, matrix
from latentrt.lora.change import ALPHA, REMEDY, Change, Parts, adapters_of, shape_of
from latentrt.lora.decomposed import PEFT
from latentrt.lora.layers import found_file, layers_in, word_of
from latentrt.lora.names import has_known_name, weights_by_name
from latentrt.lora.peft_config import PeftSettings, settings_of
from latentrt.lora.refused import family_of
from latentrt.storage.safetensors import open_tensors

Shapes = Mapping[str, Mapping[str, Shape]]
# By a layer's name: the (component, key) of each weight that it may mean.
Candidates = Mapping[str, list[tuple[str, str]]]


@dataclass(frozen=True)
class Lora:
    """A LoRA file with its scales: `scale` for the denoiser, `text_scale` for the text encoders.

    file: a file, or a folder that holds one, as peft and diffusers save them. text_scale: None for the denoiser's.
    """

    file: Path
    scale: float = 1.0
    text_scale: float | None = None

    def scale_of(self, component: str) -> float:
        """The scale for a component."""
        return self.scale if component in DENOISERS or self.text_scale is None else self.text_scale


@dataclass(frozen=True)
class Target:
    """A weight that a layer of a file changes, with the kind of adapter and its tensors."""

    layer: str
    component: str
    key: str
    adapter: Adapter
    parts: Parts


def changes_of(lora: Lora, weights: Shapes, model: str, family: str) -> list[Change]:
    """Returns a file's changes of a model, in the order of its keys.

    Files may hold any kind in `adapters` and `multiplied`, with DoRA's magnitudes, in the key layouts of kohya,
    diffusers, peft, LyCORIS or ComfyUI, for the UNet and the text encoders. weights: the shapes of each component's
    tensors, by their keys in diffusers and transformers. model, family: names for messages. Raises CheckpointError for
    a file that is missing, damaged or no LoRA, for a key that names no layer of the model, for a layer of another
    shape, for an unsupported kind, and for a scale that is not a finite number.
    """
    for scale in (lora.scale, lora.scale if lora.text_scale is None else lora.text_scale):
        if not isinstance(scale, numbers.Real) or not abs(scale) < math.inf:
            raise CheckpointError(f"{lora.file}: got the scale {scale!r}, expected a finite number such as 0.8")
    file = found_file(lora.file)
    opened = open_tensors(file)
    layers, settings = layers_in(file, opened.tensors), settings_of(file, opened.notes)
    candidates = candidates_of(weights)
    check_names(file, layers, candidates, model, family)
    targets, misfits = [], []
    for layer, parts in layers.items():
        for is_bias, adapter, tensors in adapters_of(file, layer, parts):
            target = Target(layer, *candidates[layer][0], adapter, tensors)
            target, misfit = fitted(file, target, is_bias, candidates, weights)
            targets.append(target)
            misfits += misfit
    if misfits:
        raise CheckpointError(
            f"{file} does not fit {model} ({family}): {first_few(misfits)}. It was made for another family or "
            "width; give one for this model"
        )
    check_duplicates(file, targets)
    if layers and not targets:
        raise CheckpointError(f"{file} has alphas ({first_few([*layers])}) and nothing that they scale; {REMEDY}")
    return [change_of(lora, file, target, settings) for target in targets]


def bundled_words(file: Path) -> tuple[str, ...]:
    """Returns the words of the textual inversions inside a LoRA file, in the order of its keys.

    Raises CheckpointError for a file that is missing or damaged.
    """
    words = [word_of(key) for key in open_tensors(found_file(file)).tensors]
    return tuple(dict.fromkeys(word for word in words if word is not None))


def candidates_of(weights: Shapes) -> Candidates:
    """The weights that each layer name of a file may mean; several if two text encoders have the same names."""
    candidates: dict[str, list[tuple[str, str]]] = {}
    for component, shapes in weights.items():
        for name, key in weights_by_name(component, shapes).items():
            candidates.setdefault(name, []).append((component, key))
    return candidates


def check_names(file: Path, layers: Mapping[str, Parts], candidates: Candidates, model: str, family: str) -> None:
    """Raises CheckpointError for layers that the model does not have, and for names of no known layout."""
    missing = [layer for layer in layers if layer not in candidates]
    if not missing:
        return
    other = family_of(missing)
    unknown = [layer for layer in missing if not has_known_name(layer)]
    if unknown and other is None:
        raise CheckpointError(
            f"{file} calls layers by names that are not known: {first_few(unknown)}; expected those of kohya "
            "(lora_unet_..., lora_te_...), diffusers (unet...., text_encoder....), ComfyUI (diffusion_model...., "
            "text_encoders.clip_l....), LyCORIS (lycoris_...) or peft; save it anew in one of these"
        )
    raise CheckpointError(
        f"{file} changes layers that {model} ({family}) does not have: {first_few(missing)}. It was made for "
        f"{other or 'another family'}; give one for {family}"
    )


def check_duplicates(file: Path, targets: Sequence[Target]) -> None:
    """Raises CheckpointError for a weight that two layers of the file change, under different names."""
    found: dict[tuple[str, str], str] = {}
    for target in targets:
        other = found.setdefault((target.component, target.key), target.layer)
        if other != target.layer:
            raise CheckpointError(
                f"{file} changes {target.component} {target.key} twice, as {other} and as {target.layer}; save the "
                "adapters in a file each"
            )


def fitted(
    file: Path, target: Target, is_bias: bool, candidates: Candidates, weights: Shapes
) -> tuple[Target, list[str]]:
    """Returns the target at the candidate whose shape fits; if none does, one line per candidate that says why."""
    misfits, errors = [], []
    for component, weight in candidates[target.layer]:
        key = weight.removesuffix("weight") + "bias" if is_bias else weight
        wanted = weights[component].get(key)
        if wanted is None:
            misfits.append(f"{component} {key} (got a change of it, the layer has no bias)")
            continue
        try:
            shape = shape_of(file, target.layer, target.adapter, target.parts, wanted)
        except CheckpointError as error:
            errors.append(error)
            continue
        if shape and matrix(shape) == matrix(wanted):
            return replace(target, component=component, key=key), []
        misfits.append(f"{component} {key} (got a change of shape {shape}, expected {wanted})")
    if not misfits:
        raise errors[0]
    return target, misfits


def change_of(lora: Lora, file: Path, target: Target, settings: PeftSettings) -> Change:
    """The change of a target, with the scale, and the factor from the file's settings."""
    shapes = {name: stored.shape for name, stored in target.parts.items()}
    has_alpha = ALPHA in target.parts
    factor = 1.0 if has_alpha else settings.factor(target.component, target.key, target.adapter, shapes)
    if settings.of(target.component, "use_dora") and "up" in shapes and PEFT not in shapes:
        raise CheckpointError(
            f"{file}: {settings.origin} says use_dora, but {target.layer} has no {PEFT}; save the LoRA again"
        )
    scale = float(lora.scale_of(target.component))
    return Change(file, target.layer, target.component, target.key, target.parts, target.adapter, scale, factor)
