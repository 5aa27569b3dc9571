"""Reading and writing of bundle.json: format 2 directly, format 1 by `format1`. Every value is checked on reading."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from latentrt.bundle.format1 import manifest_of
from latentrt.bundle.manifest import FORMAT, Component, Manifest, TokenizerSpec
from latentrt.bundle.manifest_hash import KEY, ZEROS, sealed
from latentrt.bundle.sources import DEEP_FEATURES, FEATURES, InputSource, Rotary, per_of
from latentrt.storage.json_codec import TypedError, parse, plain
from latentrt.tensors import TensorSpec, split_axis

DTYPES = ("float16", "float32", "int64")
LARGEST_ID = 2**31 - 1
# The sources of hoisted graphs, which are called before the first step.
HOISTED_KINDS = ("timestep", "text", "request", "image")
# Keys that are not written if they have their default.
OMITTED = (
    *("sources", "controls", "quantization", "encoders", "pads", "zero_negative", "unread", "embeddings"),
    *("name", "values", "extra_channels", "positions", "padded", "fill", "multiple", "attention_factor"),
    *("boundary", "activations", "eta", "before", "after", "guided", "rotary", "references", "size_shift"),
    *("eight_bit_bytes", "row_bytes", "table", "others", "missing"),
    *("overlay", "classes", "segmentation", "layout", "image_embedding", "prior", "names", "lora_weights", "presets"),
)


def read(text: str | bytes) -> Manifest:
    """Returns the manifest in `text`, of format 2 or 1, without a check of its own hash (see `manifest_hash`).

    Raises TypedError that names the place and the expected value.
    """
    document = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    if isinstance(document, dict):
        document.pop(KEY, None)
    version = document.get("format") if isinstance(document, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise TypedError(f".format: got {version}, this version of latentrt reads up to {FORMAT}; update latentrt")
    if isinstance(document, dict):
        _raise_eight_bit_bytes(document.get("components"))
    manifest = manifest_of(document) if type(version) is int and version == 1 else parse(Manifest, document)
    if manifest.format != FORMAT:
        raise TypedError(f".format: got {manifest.format}, expected {FORMAT}")
    _check_counts(manifest)
    for name, component in manifest.components.items():
        for spec in (*component.inputs, *component.outputs):
            _check_spec(spec, f".components.{name}.{spec.name}")
    _check_sources(manifest)
    if manifest.text and not manifest.text.encoders:
        raise TypedError(".text.encoders: got none, expected at least one")
    for file in named_files(manifest):
        if file not in manifest.files:
            raise TypedError(f".files: {file} is used but not listed")
    if len(manifest.latents.to_rgb) != manifest.latents.channels + 1:
        raise TypedError(
            f".latents.to_rgb: got {len(manifest.latents.to_rgb)} rows, expected one per channel and one more"
        )
    return manifest


def _raise_eight_bit_bytes(components: Any) -> None:
    """Moves `eight_bit_bytes` from a component's quantization, where 0.2.0 wrote it, to the component, in place."""
    for component in components.values() if isinstance(components, dict) else ():
        figures = component.get("quantization") if isinstance(component, dict) else None
        if isinstance(figures, dict) and "eight_bit_bytes" in figures:
            component["eight_bit_bytes"] = figures.pop("eight_bit_bytes")


def write(manifest: Manifest) -> str:
    """Returns the manifest as JSON: fixed order of keys, two-space indent, its own hash and a line break at the end."""
    document = plain(manifest, OMITTED) | {KEY: ZEROS}
    return sealed(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def named_files(manifest: Manifest) -> list[str]:
    """Every file that the manifest names: graphs and their data, the tokenizer, the table of weights."""
    graphs = [file for component in manifest.components.values() for file in (component.file, *component.data)]
    tokenizers = (one.file for one in tokenizers_of(manifest).values())
    return [*graphs, *tokenizers, *filter(None, [manifest.lora_weights])]


def tokenizers_of(manifest: Manifest) -> dict[str, TokenizerSpec]:
    """The tokenizer, and those of text encoders with another vocabulary, by their places in the manifest."""
    if manifest.tokenizer is None:
        return {}
    others = {f"tokenizer.others.{name}": one for name, one in manifest.tokenizer.others.items()}
    return {"tokenizer": manifest.tokenizer, **others}


def _check_counts(manifest: Manifest) -> None:
    latents, defaults = manifest.latents, manifest.defaults
    counts = {
        ".latents.channels": latents.channels,
        ".latents.factor": latents.factor,
        ".latents.multiple": latents.multiple,
        ".defaults.steps": defaults.steps,
        ".defaults.width": defaults.width,
        ".defaults.height": defaults.height,
    }
    counts |= {
        f".components.{name}.attention_factor": one.attention_factor for name, one in manifest.components.items()
    }
    if manifest.schedule:
        counts[".schedule.train_steps"] = manifest.schedule.train_steps
    if manifest.text:
        counts[".text.layers"] = manifest.text.layers
    if manifest.classes:
        counts[".classes.count"] = manifest.classes.count
    if manifest.image_embedding:
        counts[".image_embedding.noise_levels"] = manifest.image_embedding.noise_levels
    for where, count in counts.items():
        if count < 1:
            raise TypedError(f"{where}: got {count}, expected at least 1")
    for place, tokenizer in tokenizers_of(manifest).items():
        for name in ("bos", "eos", "pad", "before", "after"):
            number = getattr(tokenizer, name) or 0
            if max(number if isinstance(number, tuple) else (number,)) > LARGEST_ID:
                raise TypedError(f".{place}.{name}: got {number}, expected a token's id")
    for name in manifest.tokenizer.others if manifest.tokenizer else ():
        if name not in manifest.text_encoders:
            raise TypedError(f".tokenizer.others: got {name!r}, expected text encoders: {manifest.text_encoders}")
    if (manifest.text is None) != (manifest.tokenizer is None):
        raise TypedError(".tokenizer: got one of text and tokenizer, expected both or none")
    if latents.patch_size != 1:
        raise TypedError(f".latents.patch_size: got {latents.patch_size}, this version of latentrt supports only 1")
    if latents.scaling == 0:
        raise TypedError(".latents.scaling: got 0, expected another number")


def _check_spec(spec: TensorSpec, where: str) -> None:
    if spec.dtype not in DTYPES:
        raise TypedError(f"{where}: got the type {spec.dtype!r}, expected one of {', '.join(DTYPES)}")
    for axis in spec.shape:
        if isinstance(axis, int):
            if axis < 1:
                raise TypedError(f"{where}: got a side of {axis}, expected at least 1")
            continue
        try:
            split_axis(axis)
        except ValueError as error:
            raise TypedError(f"{where}: {error}") from error


def _check_sources(manifest: Manifest) -> None:
    """Raises TypedError unless every input of denoisers and hoisted graphs has a valid source.

    A bundle with only some components is valid here; `latentrt.load` requires all of them.
    """
    fed = manifest.of_role("denoiser") | manifest.of_role("shallow_denoiser") | manifest.hoisted
    for name, component in fed.items():
        where = f".components.{name}.sources"
        names = {spec.name for spec in component.inputs}
        if component.sources.keys() != names:
            raise TypedError(f"{where}: got {sorted(component.sources)}, expected the inputs {sorted(names)}")
        for key, source in component.sources.items():
            _check_source(source, f"{where}.{key}", key, component, manifest.hoisted)
    shows = any(source.kind == "image" for component in fed.values() for source in component.sources.values())
    if shows != (manifest.image_embedding is not None):
        raise TypedError(".image_embedding: got one of it and of a source of the kind 'image', expected both or none")
    for name, component in manifest.of_role("shallow_denoiser").items():
        _check_shallow(manifest, component, f".components.{name}")
    for name, component in manifest.of_role("shallow_controlnet").items():
        _check_shallow_controlnet(manifest, component, f".components.{name}")
    for name, component in manifest.of_role("denoiser").items():
        latents = [key for key, source in component.sources.items() if source.kind == "latents"]
        if len(latents) != 1:
            raise TypedError(f".components.{name}.sources: got {len(latents)} of the kind 'latents', expected one")


def _check_shallow(manifest: Manifest, shallow: Component, where: str) -> None:
    """Raises TypedError unless the denoiser makes the features that the shallow one takes, and feeds it all else."""
    known = {spec.name: spec for one in manifest.of_role("denoiser").values() for spec in (*one.inputs, *one.outputs)}
    if len(manifest.of_role("shallow_denoiser")) > 1 or shallow.boundary < 1:
        raise TypedError(f"{where}.boundary: got {shallow.boundary}, expected at least 1, and one such component")
    if shallow.sources.get(DEEP_FEATURES) != FEATURES:
        raise TypedError(f"{where}.sources: got no source {DEEP_FEATURES!r} of the kind 'features', expected one")
    for spec in shallow.inputs:
        if known.get(spec.name) != spec:
            raise TypedError(f"{where}.inputs: got {spec.name!r}, expected what the denoiser takes or makes")


def _check_shallow_controlnet(manifest: Manifest, shallow: Component, where: str) -> None:
    """Raises TypedError unless a ControlNet has the same controls, inputs and outputs, which the shallow one takes."""
    whole = [one for one in manifest.of_role("controlnet").values() if one.controls == shallow.controls]
    if len(whole) != 1 or manifest.shallow is None:
        raise TypedError(f"{where}.controls: got {list(shallow.controls)}, expected those of a ControlNet to shorten")
    taken = {*manifest.components[manifest.shallow].inputs}
    for specs, known in ((shallow.inputs, {*whole[0].inputs}), (shallow.outputs, {*whole[0].outputs} & taken)):
        for spec in specs:
            if spec not in known:
                raise TypedError(f"{where}: got {spec.name!r}, expected what the ControlNet and the shallow unet have")


def _check_source(
    source: InputSource, where: str, key: str, component: Component, hoisted: Mapping[str, Component]
) -> None:
    if component.role == "hoisted" and source.kind not in HOISTED_KINDS:
        expected_kinds = f"{', '.join(map(repr, HOISTED_KINDS[:-1]))} or {HOISTED_KINDS[-1]!r}"
        raise TypedError(f"{where}: got {source.kind!r}, expected {expected_kinds} in a hoisted graph")
    tables = [one for one in (source.positions, source.rotary) if one is not None]
    if (source.kind == "positions") != (len(tables) == 1):
        raise TypedError(f"{where}.positions: got one of it and of the kind 'positions', expected both or none")
    if source.positions is not None and (source.positions.base < 1 or not source.positions.scale > 0):
        raise TypedError(f"{where}.positions: got {source.positions}, expected a base of at least 1, a scale above 0")
    if source.positions is not None and source.positions.table < 0:
        raise TypedError(f"{where}.positions.table: got {source.positions.table}, expected at least 0")
    if source.positions is not None:
        _check_table(component.input(key), f"{where}.positions")
    if source.rotary is not None:
        _check_rotary(source.rotary, component.input(key), f"{where}.rotary")
    if source.kind == "text" and source.name not in ("context", "pooled"):
        raise TypedError(f"{where}.name: got {source.name!r}, expected 'context' or 'pooled'")
    if source.kind == "request" and not source.values:
        raise TypedError(f"{where}.values: got none, expected the names of values of a request")
    if source.kind == "component" and source.name in hoisted:
        maker = hoisted[source.name]
        if key not in {spec.name for spec in maker.outputs}:
            raise TypedError(f"{where}: got the component {source.name!r}, expected a hoisted one with an output {key}")
        expected = per_of(tuple(maker.sources.values()))
        if source.per != expected:
            raise TypedError(f"{where}.per: got {list(source.per)}, expected {list(expected)}, as {source.name} is fed")


def _check_table(spec: TensorSpec, where: str) -> None:
    """Raises TypedError unless a table of positions has channels for sines and cosines of rows and of columns."""
    channels, *sides = spec.shape
    if not isinstance(channels, int) or channels % 4 or len(sides) != 2:
        raise TypedError(f"{where}: got the input {spec}, expected a multiple of 4 channels, rows and columns")


def _check_rotary(rotary: Rotary, spec: TensorSpec, where: str) -> None:
    """Raises TypedError unless a table of rotations has cosines and sines of every pair of channels."""
    if not rotary.theta > 0 or min(rotary.axes) < 2 or any(axis % 2 for axis in rotary.axes) or rotary.references < 0:
        raise TypedError(f"{where}: got {rotary}, expected a theta above 0, and axes that are multiples of 2")
    pairs = sum(rotary.axes) // 2
    if len(spec.shape) not in (3, 4) or (spec.shape[0], spec.shape[-1]) != (2, pairs):
        raise TypedError(f"{where}: got the input {spec}, expected 2, tokens or rows and columns, and {pairs} pairs")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise TypedError(f".{key}: the key occurs twice")
    return document


def _refuse_constant(name: str) -> None:
    raise TypedError(f"got {name}, expected a finite number")
