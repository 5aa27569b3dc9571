"""A bundle's weights with LoRA files added: computed when an engine loads, and not stored here."""

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
    """A LoRA of a pipeline: the file's name, its SHA-256, and its scales.

    text_scale: the text encoders'; None if it equals the UNet's.
    """

    file: str
    sha256: str
    scale: float
    text_scale: float | None = None

    def record(self) -> dict[str, Any]:
        """Metadata of the LoRA for a picture, JSON-serializable."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class ChangedWeight:
    """An initializer of a graph and all its changes, in order."""

    changes: Sequence[tuple[Place, Change]]

    @property
    def initializer(self) -> Initializer:
        """The unchanged initializer."""
        return self.changes[0][0].initializer

    def read(self) -> Array:
        """Returns the new weight, computed in float32 and rounded once to its type in the graph.

        Raises CheckpointError if a file has changed, or if the new weight is not finite.
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
    """Returns the initializers that LoRA files change in each component, by name; none is computed yet.

    Raises CheckpointError for a file that does not fit the bundle or contains textual inversions, EngineError for a
    bundle without float weights, BundleError for a bundle without a table of weights, or if a changed weight is shared
    with other layers.
    """
    manifest = bundle.manifest
    if missing := [name for name in changed_components(manifest) if name not in manifest.components]:
        raise EngineError(
            f"LoRA: {manifest.name} is a {manifest.family} model without {' and '.join(missing)}, expected a Stable "
            "Diffusion model; LoRA files for it are unknown: leave them out"
        )
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
                for place in unshared_places(bundle, places.of(change.component, change.weight), change):
                    found[place.component][place.name].append((place, change))
    return {
        component: {name: ChangedWeight(changes) for name, changes in weights.items()}
        for component, weights in found.items()
    }


def unshared_places(bundle: Bundle, places: Sequence[Place], change: Change) -> Sequence[Place]:
    """The places of a weight. Raises BundleError if several layers share one, or if an equal one stands for it."""
    if not places or any(place.shared for place in places):
        raise BundleError(
            f"{bundle.folder}: {change.file} changes {change.component} {change.weight}, which the graph stores once "
            f"for several layers with equal weights; fuse the file with `latentrt export --lora`"
        )
    return places


def check_words(lora: Lora) -> None:
    """Raises CheckpointError for a file with textual inversions: their words need new rows in the text encoders."""
    words = bundled_words(lora.file)
    if words:
        raise CheckpointError(
            f"{lora.file} contains textual inversions ({first_few(words)}), which cannot be added to a bundle; fuse it "
            "with `latentrt export --lora`, which adds them"
        )


def applied(loras: Sequence[Lora]) -> tuple[Applied, ...]:
    """The files as pictures record them."""
    found = []
    for lora in loras:
        scale, text = float(lora.scale), float(lora.scale_of("text_encoder"))
        found.append(
            Applied(lora.file.absolute().name, sha256_of(found_file(lora.file)), scale, None if text == scale else text)
        )
    return tuple(found)


def loras_of(scales: Mapping[str | Path, float | tuple[float, float]]) -> tuple[Lora, ...]:
    """The LoRAs in a mapping from files to scales, in its order: one number, or the UNet's and the text encoders'.

    Raises CheckpointError for any other count of numbers.
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
