"""A bundle's weights with LoRA files added to them, computed when an engine loads and never kept here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.bundle import Bundle, sha256_of
from latentrt.errors import BundleError, CheckpointError, EngineError
from latentrt.lora.files import Change, Lora, changes_of
from latentrt.lora.places import Place, places_of, unread_of
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
    """An initialiser of a graph and all that is added to it, in order."""

    changes: Sequence[tuple[Place, Change]]

    def read(self) -> Array:
        """Returns the new weight, added up in float32 and rounded once to the type that it has in the graph."""
        stored = self.changes[0][0].initializer.read()
        summed = stored.astype(np.float32)
        for place, change in self.changes:
            part = place.of(summed)
            part += change.read().reshape(place.shape)
        return summed.astype(stored.dtype, copy=False)


def changed_weights(bundle: Bundle, loras: Sequence[Lora]) -> dict[str, dict[str, ChangedWeight]]:
    """Returns the initialisers that LoRA files change in each component, by name; none is computed yet.

    Raises CheckpointError for a file that does not fit the bundle, EngineError for a bundle that has no float weights.
    """
    manifest = bundle.manifest
    for name in ("unet", "cross_kv", "time_bias", *manifest.text.encoders):
        if (precision := manifest.components[name].precision) in ("int8", "w8"):
            raise EngineError(
                f"LoRA: got a {name} in {precision}, expected float weights to add to; fuse it with `latentrt export "
                "--lora FILE:SCALE`, then `latentrt calibrate`"
            )
    places = places_of(bundle)
    unread = unread_of(bundle, places)
    shapes = {name: {key: place.shape for key, place in places[name].items()} | unread[name] for name in places}
    found: dict[str, dict[str, list[tuple[Place, Change]]]] = defaultdict(lambda: defaultdict(list))
    for lora in loras:
        for change in changes_of(lora, shapes, manifest.name, manifest.family):
            if change.weight in unread[change.component]:
                continue
            place = places[change.component][change.weight]
            if place.shared:
                raise BundleError(
                    f"{bundle.path(manifest.components[place.component].file)}: {place.name} serves several layers, "
                    f"and {lora.file} changes one of them; fuse it with `latentrt export --lora`"
                )
            found[place.component][place.name].append((place, change))
    return {
        component: {name: ChangedWeight(changes) for name, changes in weights.items()}
        for component, weights in found.items()
    }


def applied(loras: Sequence[Lora]) -> tuple[Applied, ...]:
    """What a picture says of the files."""
    found = []
    for lora in loras:
        scale, text = float(lora.scale), float(lora.scale_of("text_encoder"))
        found.append(Applied(lora.file.name, sha256_of(lora.file), scale, None if text == scale else text))
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
