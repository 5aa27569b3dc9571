"""A component to export: its module, its specs, and what the original computes on fixed inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

from latentrt.bundle.sources import InputSource, Role
from latentrt.tensors import TensorSpec

# (batch, height, width) in latents: even sides, and sides that every level rounds.
PROBES = ((2, 16, 24), (1, 9, 13))
NO_SOURCES: Mapping[str, InputSource] = {}


@dataclass(frozen=True)
class Probe:
    """Fixed random inputs and what the original module makes of them, in float32."""

    feeds: Mapping[str, Tensor]
    references: tuple[Tensor, ...]


@dataclass(frozen=True)
class Part:
    """One component to export. `build` makes the module to trace, of which the original may not survive the making.

    float32: whether it is exported in fp32 whatever the precision, because its values leave fp16's range. wide: whether
    fp16 is w16 for it, weights in fp16 and values in float32, for the same reason. multiple: sides in latents must be
    multiples of it. role, sources, controls, attention_factor: see `latentrt.bundle.manifest.Component`.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    probes: tuple[Probe, ...]
    float32: bool = False
    multiple: int = 1
    role: Role = field(kw_only=True)
    sources: Mapping[str, InputSource] = field(default_factory=dict, kw_only=True)
    controls: tuple[str, ...] = field(default=(), kw_only=True)
    attention_factor: int = field(default=1, kw_only=True)
    wide: bool = field(default=False, kw_only=True)


def sample_spec(network: ControlNetModel | UNet2DConditionModel | UNet2DModel) -> TensorSpec:
    """The noisy latents with the extra channels of a network."""
    return TensorSpec("sample", "float32", ("batch", network.config.in_channels, "height", "width"))


def probes_of(multiple: int) -> tuple[tuple[int, int, int], ...]:
    """PROBES with sides that are multiples."""
    return tuple(
        (batch, -(-height // multiple) * multiple, -(-width // multiple) * multiple) for batch, height, width in PROBES
    )


def part(
    name: str,
    build: Callable[[], nn.Module],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    runs: Sequence[Mapping[str, Tensor]],
    *,
    role: Role,
    sources: Mapping[str, InputSource] = NO_SOURCES,
    controls: tuple[str, ...] = (),
    multiple: int = 1,
) -> Part:
    """A component whose probes are taken out of all the tensors of some runs, by name."""
    probes = (
        Probe({spec.name: run[spec.name] for spec in inputs}, tuple(run[spec.name] for spec in outputs)) for run in runs
    )
    return Part(
        name, build, inputs, outputs, tuple(probes), multiple=multiple, role=role, sources=sources, controls=controls
    )


def generator() -> torch.Generator:
    """The same random numbers for every component, every time."""
    return torch.Generator().manual_seed(0)


def pixels_of(vae: Config) -> int:
    """Pixels a side that one latent covers: every level but the last halves the picture.

    A latent of FLUX.2's is a patch of the autoencoder's.
    """
    patch, _ = vae.get("patch_size") or (1, 1)
    return int(patch * 2 ** (len(vae["block_out_channels"]) - 1))


Config = Mapping[str, Any]
