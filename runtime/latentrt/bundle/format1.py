"""Manifests of format 1, which gives roles and sources by the names of components and inputs; format 2 states them.

Only this module knows the prefixes of names: `control_NAME`, `hint_NAME`, `adapter_NAME`, `image_kv_NAME`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentrt.bundle.manifest import (
    FORMAT,
    Component,
    Defaults,
    Fidelity,
    FileRecord,
    Latents,
    Manifest,
    Precision,
    Text,
    TokenizerSpec,
)
from latentrt.bundle.quantization import Quantization
from latentrt.bundle.sources import (
    GUIDANCE,
    TIMESTEP,
    ExtraChannelsName,
    InputSource,
    Role,
    SizeId,
    component_source,
    control_source,
    extra_channels_of,
    latents_source,
    request_source,
    text_source,
)
from latentrt.sampling.schedule import NoiseSchedule
from latentrt.storage.json_codec import parse
from latentrt.tensors import TensorSpec

ROLES: dict[str, Role] = {
    "cross_kv": "hoisted",
    "time_bias": "hoisted",
    "unet": "denoiser",
    "vae_decoder": "vae_decoder",
    "vae_encoder": "vae_encoder",
    "tiny_decoder": "tiny_decoder",
    "image_encoder": "image_encoder",
}
PREFIXES: dict[str, Role] = {"control_": "controlnet", "hint_": "controlnet_hint", "adapter_": "t2i_adapter"}
IMAGE_KV = "image_kv_"
INPUTS: dict[str, Role] = {"residual_": "controlnet", "feature_": "t2i_adapter", IMAGE_KV: "image_encoder"}


@dataclass(frozen=True)
class Component1:
    """A component of format 1."""

    file: str
    data: tuple[str, ...]
    precision: Precision
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    fidelity: Fidelity
    quantization: Quantization | None = None


@dataclass(frozen=True)
class Latents1:
    """The latent space in format 1. pixels: per latent along each side."""

    channels: int
    pixels: int
    scaling: float
    to_rgb: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Manifest1:
    """The whole of a bundle.json of format 1. shown: the extra channels of the UNet's sample."""

    format: int
    name: str
    family: str
    tasks: tuple[str, ...]
    components: Mapping[str, Component1]
    text: Text
    latents: Latents1
    schedule: NoiseSchedule
    tokenizer: TokenizerSpec
    defaults: Defaults
    provenance: Mapping[str, str]
    files: Mapping[str, FileRecord]
    size_ids: tuple[SizeId, ...] = ()
    shown: tuple[ExtraChannelsName, ...] = ()


def manifest_of(document: Any) -> Manifest:
    """Returns the manifest in a JSON document of format 1. Raises TypedError that names the wrong place."""
    old = parse(Manifest1, document)
    return Manifest(
        format=FORMAT,
        name=old.name,
        family=old.family,
        tasks=old.tasks,
        components={name: component_of(name, component, old) for name, component in old.components.items()},
        text=old.text,
        latents=Latents(old.latents.channels, old.latents.pixels, old.latents.scaling, old.latents.to_rgb),
        schedule=old.schedule,
        tokenizer=old.tokenizer,
        defaults=old.defaults,
        provenance=old.provenance,
        files=old.files,
    )


def component_of(name: str, old: Component1, manifest: Manifest1) -> Component:
    """The component with its role, the sources of its inputs and the names of its controls."""
    role, controls = role_of(name, old)
    return Component(
        role=role,
        file=old.file,
        data=old.data,
        precision=old.precision,
        inputs=old.inputs,
        outputs=old.outputs,
        fidelity=old.fidelity,
        sources=sources_of(old, manifest) if role in ("hoisted", "denoiser") else {},
        controls=controls,
        quantization=old.quantization,
    )


def role_of(name: str, old: Component1) -> tuple[Role, tuple[str, ...]]:
    """The role of a component, from its name, and the names of the controls that it serves."""
    for prefix, role in PREFIXES.items():
        if name.startswith(prefix):
            return role, (name.removeprefix(prefix),)
    if ROLES.get(name) == "image_encoder":
        return "image_encoder", tuple(spec.name.removeprefix(IMAGE_KV) for spec in old.outputs)
    return ROLES.get(name, "text_encoder"), ()


def sources_of(old: Component1, manifest: Manifest1) -> dict[str, InputSource]:
    """The source of every input by its name."""
    known = {
        "sample": latents_source(*extra_channels_of(manifest.shown, manifest.latents.channels)),
        "timestep": TIMESTEP,
        "context": text_source("context"),
        "pooled": text_source("pooled"),
        "guidance": request_source(GUIDANCE),
        "size_ids": request_source(*manifest.size_ids),
    }
    found = {}
    for spec in old.inputs:
        maker = manifest.components.get(spec.name) if old is manifest.components.get("unet") else None
        if maker is not None and ROLES.get(spec.name) == "hoisted":
            found[spec.name] = component_source(spec.name, *sources_of(maker, manifest).values())
        elif spec.name in known:
            found[spec.name] = known[spec.name]
        elif role := next((role for start, role in INPUTS.items() if spec.name.startswith(start)), None):
            found[spec.name] = control_source(role)
    return found
