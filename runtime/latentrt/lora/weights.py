"""A bundle's weights with LoRA files added: computed when an engine loads, and not stored here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.bundle.folder import Bundle, sha256_of
from latentrt.bundle.manifest import Manifest
from latentrt.engines import Weights
from latentrt.engines.onnx.initializers import Initializer
from latentrt.errors import BundleError, CheckpointError, EngineError, first_few
from latentrt.lora.adapters import ADDED
from latentrt.lora.applying import Changes, apply_all, rounded
from latentrt.lora.beside import Beside
from latentrt.lora.change import Change
from latentrt.lora.files import Lora, bundled_words, changes_of
from latentrt.lora.layers import found_file
from latentrt.lora.places import FIXED, Decoded, Place, changed_components, read_places
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

    changes: Changes

    @property
    def initializer(self) -> Initializer:
        """The unchanged initializer."""
        initializer = self.changes[0][0].initializer
        assert isinstance(initializer, Initializer)
        return initializer

    def read(self) -> Array:
        """Returns the new weight, computed in float32 and rounded once to its type in the graph.

        Raises CheckpointError if a file has changed, or if the new weight is not finite.
        """
        stored = self.initializer.read()
        changed = stored.astype(np.float32)
        apply_all(changed, self.changes)
        return rounded(changed, stored.dtype, self.changes, "stored")


def changed_weights(bundle: Bundle, loras: Sequence[Lora]) -> dict[str, Weights]:
    """Returns what LoRA files change in each component; nothing is computed yet.

    Raises CheckpointError for a file that does not fit the bundle or contains textual inversions, EngineError for a
    bundle whose weights nothing can be added to, BundleError for a bundle without a table of weights, or if a changed
    weight is shared with other layers.
    """
    check_weights(bundle.manifest)
    places = read_places(bundle)
    shapes, manifest = places.shapes(), bundle.manifest
    found: dict[str, dict[str, list[tuple[Place, Change]]]] = defaultdict(lambda: defaultdict(list))
    for lora in loras:
        changes = changes_of(lora, shapes, manifest.name, manifest.family)
        check_words(lora)
        for change in changes:
            if change.weight not in places.unread[change.component]:
                for place in unshared_places(bundle, places.of(change.component, change.weight), change):
                    check_adds(place, change)
                    found[place.component][place.name].append((place, change))
    return {component: weights_of(changes) for component, changes in found.items()}


def weights_of(found: Mapping[str, Changes]) -> Weights:
    """A component's changes, those of float weights apart from those beside weights in few bits. found: by name."""
    beside = {name: Beside(one) for name, one in found.items() if isinstance(one[0][0].initializer, Decoded)}
    floats = {name: ChangedWeight(one) for name, one in found.items() if name not in beside}
    return Weights(floats, {one.output: one for one in beside.values()})


def check_weights(manifest: Manifest) -> None:
    """Raises EngineError for a model whose LoRA files are unknown, and for activations in 8 bits."""
    if missing := [name for name in changed_components(manifest) if name not in manifest.components]:
        raise EngineError(
            f"LoRA: {manifest.name} is a {manifest.family} model without {' and '.join(missing)}, expected a Stable "
            "Diffusion or FLUX.2 klein model; LoRA files for it are unknown: leave them out"
        )
    for name in changed_components(manifest):
        if (precision := manifest.components[name].precision) in FIXED:
            raise EngineError(
                f"LoRA: got a {name} in {precision}, expected float arithmetic; fuse it with `latentrt export "
                "--lora FILE:SCALE`, then `latentrt calibrate`"
            )


def check_adds(place: Place, change: Change) -> None:
    """Raises CheckpointError for a change that needs the value of a weight in few bits."""
    if isinstance(place.initializer, Decoded) and not change.adds:
        kind = "DoRA" if change.adapter in ADDED else change.adapter.name
        raise CheckpointError(
            f"{change.file}: {change.layer} is {kind}, which depends on the weight, and {change.component} "
            f"{change.weight} is stored in few bits; expected a kind that adds to it, such as LoRA. Fuse the file with "
            "`latentrt export --lora`"
        )


def unshared_places(bundle: Bundle, places: Sequence[Place], change: Change) -> Sequence[Place]:
    """The places of a weight. Raises BundleError if several layers share one, or if an equal one stands for it."""
    if not places or any(place.shared for place in places):
        raise BundleError(
            f"{bundle.folder}: {change.file} changes {change.component} {change.weight}, which the graph stores once "
            "for several layers with equal weights, or in another order; fuse the file with `latentrt export --lora`"
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
