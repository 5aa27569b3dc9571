"""A bundle's weights with LoRA files added to them, computed when an engine loads and never kept here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.bundle.folder import Bundle, sha256_of
from latentrt.engines.onnx.initializers import Initializer
from latentrt.errors import BundleError, CheckpointError, EngineError, first_few
from latentrt.lora.change import Change
from latentrt.lora.files import Lora, bundled_words, changes_of
from latentrt.lora.layers import found_file
from latentrt.lora.places import QUANTIZED, Place, changed_components, read_places
from latentrt.tensors import Array


@dataclass(frozen=True)
class Applied:
    """A LoRA that a pipeline runs with: the file's name, its SHA-256, and how much of it was added.

    text_scale: the text encoders', None where it is the UNet's.
    """

    file: str
    sha256: str
    scale: float
    text_scale: float | None = None

    def record(self) -> dict[str, Any]:
        """What a picture notes of it, as JSON has it."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class ChangedWeight:
    """An initialiser of a graph and all that changes it, in order."""

    changes: Sequence[tuple[Place, Change]]

    @property
    def initializer(self) -> Initializer:
        """The place of the initialiser."""
        return self.changes[0][0].initializer

    def read(self) -> Array:
        """Returns the new weight, computed in float32 and rounded once to the type that it has in the graph.

        Raises CheckpointError for a file that has changed, and for weights that are not finite.
        """
        stored = self.initializer.read()
        changed = stored.astype(np.float32)
        for place, change in self.changes:
            part = place.of(changed)
            part[...] = change.apply(part)
        with np.errstate(over="ignore"):
            rounded = changed.astype(stored.dtype, copy=False)
        if stored.dtype == np.float16 and not np.isfinite(rounded).all():
            place, change = self.changes[-1]
            raise CheckpointError(
                f"{change.file}: {change.layer} makes weights that fp16 cannot hold, as {place.name} is stored; give a "
                "smaller scale, or export the bundle in fp32"
            )
        return rounded


def changed_weights(bundle: Bundle, loras: Sequence[Lora]) -> dict[str, dict[str, ChangedWeight]]:
    """Returns the initialisers that LoRA files change in each component, by name; none is computed yet.

    Raises CheckpointError for a file that does not fit the bundle or brings words along, EngineError for a bundle that
    has no float weights, BundleError for one without a table of weights, and for one whose graphs share a
    weight of which one use is changed.
    """
    manifest = bundle.manifest
    for name in changed_components(manifest):
        if (precision := manifest.components[name].precision) in QUANTIZED:
            raise EngineError(
                f"LoRA: got a {name} in {precision}, expected float weights to add to; fuse it with `latentrt export "
                "--lora FILE:SCALE`, then `latentrt calibrate`"
            )
    places = read_places(bundle)
    shapes = {
        name: {**{key: place.shape for key, place in found.items()}, **places.unread[name], **places.twins[name]}
        for name, found in places.weights.items()
    }
    found: dict[str, dict[str, list[tuple[Place, Change]]]] = defaultdict(lambda: defaultdict(list))
    for lora in loras:
        changes = changes_of(lora, shapes, manifest.name, manifest.family)
        check_words(lora)
        for change in changes:
            if change.weight not in places.unread[change.component]:
                place = alone(bundle, places.weights[change.component].get(change.weight), change)
                found[place.component][place.name].append((place, change))
    return {
        component: {name: ChangedWeight(changes) for name, changes in weights.items()}
        for component, weights in found.items()
    }


def alone(bundle: Bundle, place: Place | None, change: Change) -> Place:
    """The place of a weight. Raises BundleError where it serves others as well, or another one serves in its stead."""
    if place is None or place.shared:
        raise BundleError(
            f"{bundle.folder}: {change.component} {change.weight} is the same as others, of which the graph has one "
            f"that serves several layers, and {change.file} changes one of them; fuse it with `latentrt export --lora`"
        )
    return place


def check_words(lora: Lora) -> None:
    """Raises CheckpointError for a file that brings words along: they need rows of their own in the text encoders."""
    words = bundled_words(lora.file)
    if words:
        raise CheckpointError(
            f"{lora.file} brings words of textual inversion along ({first_few(words)}), which cannot be added to a "
            "bundle; fuse it with `latentrt export --lora`, which adds them"
        )


def applied(loras: Sequence[Lora]) -> tuple[Applied, ...]:
    """What a picture says of the files."""
    found = []
    for lora in loras:
        scale, text = float(lora.scale), float(lora.scale_of("text_encoder"))
        found.append(
            Applied(lora.file.absolute().name, sha256_of(found_file(lora.file)), scale, None if text == scale else text)
        )
    return tuple(found)


def loras_of(scales: Mapping[str | Path, float | tuple[float, float]]) -> tuple[Lora, ...]:
    """The files and scales of a mapping, in its order: a number, or the UNet's and the text encoders'.

    Raises CheckpointError for more or fewer numbers than these.
    """
    found = []
    for file, scale in scales.items():
        pair = scale if isinstance(scale, tuple | list) else (scale,)
        if not 1 <= len(pair) <= 2:
            raise CheckpointError(
                f"{file}: got the scale {scale!r}, expected a number, or two: the UNet's and the text encoders'"
            )
        found.append(Lora(Path(file), *pair))
    return tuple(found)
