"""bundle.json as frozen dataclasses: all that a device has to know about a model, and what it must measure to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from latentrt.bundle.manifest_hash import KEY, ZEROS, sealed
from latentrt.bundle.quantization import Quantization
from latentrt.sampling.curves import SigmasName
from latentrt.sampling.schedule import NoiseSchedule
from latentrt.storage.json_codec import TypedError, parse, plain
from latentrt.tensors import TensorSpec, split_axis

FORMAT = 1
DTYPES = ("float16", "float32", "int64")
# What stands before the name of what steers the UNet by an image in those of its components: a ControlNet and what
# encodes its image, a T2I-Adapter.
CONTROL, HINT, ADAPTER = "control_", "hint_", "adapter_"
# What encodes images that prompt the UNet, and what stands before an IP-Adapter's name in that of what it makes of one.
IMAGE_ENCODER, IMAGE_KV = "image_encoder", "image_kv_"

Precision = Literal["fp32", "fp16", "w16", "int8", "w8"]
# The numbers that a time embedding may take besides the timestep: pixels, but for the score.
SizeId = Literal[
    "original_height", "original_width", "crop_top", "crop_left", "target_height", "target_width", "aesthetic_score"
]
# What a UNet may be shown besides noisy latents, as further channels of its sample.
Shown = Literal["mask", "masked_image", "image"]


@dataclass(frozen=True)
class Fidelity:
    """What an exported component lost against the original on fixed random inputs, and what it was allowed to lose.

    relative_error: largest difference over the largest reference value. psnr_db: None when nothing differed.
    """

    relative_error: float
    psnr_db: float | None
    gate: str


@dataclass(frozen=True)
class Component:
    """One graph: its file, the external data it reads, what goes in and out.

    quantization: what it costs that the graph is quantized; None for one that is not.
    """

    file: str
    data: tuple[str, ...]
    precision: Precision
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    fidelity: Fidelity
    quantization: Quantization | None = None


@dataclass(frozen=True)
class Text:
    """How prompts are encoded.

    layers: the most that the encoders' input `clip_skip` may be. encoders: the components that take the tokens; their
    contexts are laid side by side. pads: the id that fills rows of one, where it is not the tokenizer's.
    zero_negative: zeros stand for a negative prompt that is not given, in place of an empty text. unread: how many
    layers an encoder has at its end that nothing reads; its graph is without them.
    """

    layers: int
    encoders: tuple[str, ...] = ("text_encoder",)
    pads: Mapping[str, int] = field(default_factory=dict)
    zero_negative: bool = False
    unread: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Latents:
    """The latent space: channels, pixels a side that one latent covers, and the factor that gives unit variance.

    to_rgb: rows of (red, green, blue), one a channel and one constant; a linear preview in [-1, 1].
    """

    channels: int
    pixels: int
    scaling: float
    to_rgb: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class TokenizerSpec:
    """The tokenizer's file, in the `tokenizers` package's format, and the ids of the tokens around a prompt.

    embeddings: the words that stand for what was learned by textual inversion, and how many vectors each has. Their ids
    follow each other.
    """

    file: str
    length: int
    bos: int
    eos: int
    pad: int
    embeddings: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Defaults:
    """What a request uses where it says nothing. Sizes in pixels."""

    sampler: str
    sigmas: SigmasName
    steps: int
    guidance: float
    width: int
    height: int


@dataclass(frozen=True)
class FileRecord:
    """What a file must measure to."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The whole of bundle.json. Paths are relative to the bundle, with forward slashes.

    shown: what the UNet's sample holds after the noisy latents, in this order.
    """

    format: int
    name: str
    family: str
    tasks: tuple[str, ...]
    components: Mapping[str, Component]
    text: Text
    latents: Latents
    schedule: NoiseSchedule
    tokenizer: TokenizerSpec
    defaults: Defaults
    provenance: Mapping[str, str]
    files: Mapping[str, FileRecord]
    size_ids: tuple[SizeId, ...] = ()
    shown: tuple[Shown, ...] = ()

    @property
    def embeds_guidance(self) -> bool:
        """Whether the model was distilled with guidance, which it is told: no negative prompt then has a say."""
        known = self.components.get("time_bias")
        return known is not None and any(spec.name == "guidance" for spec in known.inputs)

    @property
    def controls(self) -> dict[str, str]:
        """By each name by which an image can steer the UNet, the component that sees the image."""
        networks = {
            name.removeprefix(prefix): name
            for name in self.components
            for prefix in (HINT, ADAPTER)
            if name.startswith(prefix)
        }
        encoder = self.components.get(IMAGE_ENCODER)
        made = encoder.outputs if encoder else ()
        return networks | {spec.name.removeprefix(IMAGE_KV): IMAGE_ENCODER for spec in made}


# Keys that bundles of earlier versions do not have; only what says something is written.
LATER = ("quantization", "encoders", "pads", "zero_negative", "unread", "size_ids", "shown", "embeddings")


def read(text: str | bytes) -> Manifest:
    """Returns the manifest in `text`, whatever hash it has of itself.

    `latentrt.bundle.manifest_hash` checks that of a file.
    Raises TypedError that names the place and what was expected there.
    """
    document = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    if isinstance(document, dict):
        document.pop(KEY, None)
    version = document.get("format") if isinstance(document, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise TypedError(f".format: got {version}, this version of latentrt reads up to {FORMAT}; update latentrt")
    manifest = parse(Manifest, document)
    if manifest.format != FORMAT:
        raise TypedError(f".format: got {manifest.format}, expected {FORMAT}")
    _check_counts(manifest)
    for name, component in manifest.components.items():
        for spec in (*component.inputs, *component.outputs):
            _check_spec(spec, f".components.{name}.{spec.name}")
    if not manifest.text.encoders:
        raise TypedError(".text.encoders: got none, expected at least one")
    for file in named_files(manifest):
        if file not in manifest.files:
            raise TypedError(f".files: {file} is used but not listed")
    if len(manifest.latents.to_rgb) != manifest.latents.channels + 1:
        raise TypedError(f".latents.to_rgb: got {len(manifest.latents.to_rgb)} rows, expected one a channel and one")
    return manifest


def write(manifest: Manifest) -> str:
    """Returns the manifest as JSON: stable order, two-space indent, its own hash and a line at the end."""
    document = plain(manifest, LATER) | {KEY: ZEROS}
    return sealed(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def named_files(manifest: Manifest) -> list[str]:
    """Every file that some part of the manifest will have an engine or the tokenizer read."""
    graphs = [file for component in manifest.components.values() for file in (component.file, *component.data)]
    return [*graphs, manifest.tokenizer.file]


def _check_counts(manifest: Manifest) -> None:
    latents, defaults = manifest.latents, manifest.defaults
    counts = {
        ".text.layers": manifest.text.layers,
        ".latents.channels": latents.channels,
        ".latents.pixels": latents.pixels,
        ".schedule.train_steps": manifest.schedule.train_steps,
        ".defaults.steps": defaults.steps,
        ".defaults.width": defaults.width,
        ".defaults.height": defaults.height,
    }
    for where, count in counts.items():
        if count < 1:
            raise TypedError(f"{where}: got {count}, expected at least 1")


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


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise TypedError(f".{key}: the key occurs twice")
    return document


def _refuse_constant(name: str) -> None:
    raise TypedError(f"got {name}, expected a finite number")
