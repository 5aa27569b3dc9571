"""A component to export: its module, its specs, and what the original computes on fixed inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from latentrt.tensors import TensorSpec

pass

# The names that diffusers' networks have for what they add to the time embedding.
ADDED_NAMES = {"pooled": "text_embeds", "size_ids": "time_ids"}

# (batch, height, width) in latents: even sides, and sides that every level rounds.
PROBES = ((2, 16, 24), (1, 9, 13))


@dataclass(frozen=True)
class Probe:
    """Fixed random inputs and what the original module makes of them, in float32."""

    feeds: Mapping[str, Tensor]
    references: tuple[Tensor, ...]


@dataclass(frozen=True)
class Part:
    """One component to export. `build` makes the module to trace, of which the original may not survive the making.

    float32: whether it is exported in fp32 whatever the precision, because its values leave fp16's range.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    probes: tuple[Probe, ...]
    float32: bool = False


def sample_spec(network: ControlNetModel | UNet2DConditionModel) -> TensorSpec:
    """The noisy latents, and what a network sees besides."""
    return TensorSpec("sample", "float32", ("batch", network.config.in_channels, "height", "width"))


def part(
    name: str,
    build: Callable[[], nn.Module],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    runs: Sequence[Mapping[str, Tensor]],
) -> Part:
    """A component whose probes are taken out of all the tensors of some runs, by name."""
    probes = (
        Probe({spec.name: run[spec.name] for spec in inputs}, tuple(run[spec.name] for spec in outputs)) for run in runs
    )
    return Part(name, build, inputs, outputs, tuple(probes))


def added_to_time(feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What diffusers' networks add to the time embedding, under the names that it has for them."""
    return {theirs: feeds[ours] for ours, theirs in ADDED_NAMES.items() if ours in feeds}


def generator() -> torch.Generator:
    """The same random numbers for every component, every time."""
    return torch.Generator().manual_seed(0)


def pixels_of(vae: Config) -> int:
    """Pixels a side that one latent covers: every level but the last halves the picture."""
    return int(2 ** (len(vae["block_out_channels"]) - 1))


Config = Mapping[str, Any]
