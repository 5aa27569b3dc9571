"""The time embedding as a graph of its own: `TimeBias`, its inputs and their sources, and the original's arguments.

A new conditioning input of the time embedding is a row of `time_inputs`, a term of `TimeBias.forward`, and an argument
in `embedding_arguments`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, UNet2DConditionModel, UNet2DModel
from diffusers.models.embeddings import Timesteps
from torch import Tensor, nn

from latentrt.bundle.sources import GUIDANCE, IMAGE_EMBEDDING, TIMESTEP, InputSource, request_source, text_source
from latentrt.tensors import TensorSpec
from latentrt_export.networks.hoist import resnets, stacked

Network: TypeAlias = UNet2DConditionModel | UNet2DModel | ControlNetModel


@dataclass(frozen=True)
class TimeInput:
    """An input of the time embedding. probe: random values in a probe are below it."""

    spec: TensorSpec
    source: InputSource
    probe: float


def time_inputs(unet: UNet2DConditionModel | UNet2DModel, size_ids: Sequence[str] = ()) -> tuple[TimeInput, ...]:
    """The inputs of a UNet's time embedding. size_ids: the names of its sizes, in order.

    Pooled text has the width that the added projection has room for besides the sizes.
    """
    config, found = unet.config, [TimeInput(TensorSpec("timestep", "float32", ("n",)), TIMESTEP, 999.0)]
    if config.get("time_cond_proj_dim"):
        found.append(TimeInput(TensorSpec("guidance", "float32", ("n",)), request_source(GUIDANCE), 10.0))
    if config.get("addition_embed_type"):
        pooled = config.projection_class_embeddings_input_dim - len(size_ids) * config.addition_time_embed_dim
        found.append(TimeInput(TensorSpec("pooled", "float32", ("n", pooled)), text_source("pooled"), 1.0))
        sizes = TensorSpec("size_ids", "float32", ("n", len(size_ids)))
        found.append(TimeInput(sizes, request_source(*size_ids), 1024.0))
    if embeds_image(unet):
        embedding = TensorSpec("image_embedding", "float32", ("n", config.projection_class_embeddings_input_dim))
        found.append(TimeInput(embedding, IMAGE_EMBEDDING, 1.0))
    return tuple(found)


def embeds_image(network: Network) -> bool:
    """Whether a network's time embedding takes the embedding of an image, as unCLIP's does."""
    return bool(network.config.get("class_embed_type") == "projection")


def embedding_arguments(network: Network, feeds: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of an undivided network of diffusers for these inputs of its time embedding."""
    arguments: dict[str, Any] = {
        "added_cond_kwargs": {
            theirs: feeds[ours]
            for ours, theirs in (("pooled", "text_embeds"), ("size_ids", "time_ids"))
            if ours in feeds
        }
    }
    width = network.config.get("time_cond_proj_dim")
    if width and "guidance" in feeds:
        arguments["timestep_cond"] = guidance_sinusoid(width)(1000 * feeds["guidance"])
    if embeds_image(network) and "image_embedding" in feeds:
        arguments["class_labels"] = feeds["image_embedding"]
    return arguments


class TimeBias(nn.Module):
    """The time-embedding branch: timestep float32 (n) -> (n, sum of channels over ResNets), added after each conv1.

    names: those of its other inputs, such as guidance (n), pooled text (n, pooled), sizes (n, ids) and the embedding of
    an image (n, width).
    Sinusoids stay in float32: fp16 cannot tell the timesteps near 1000 apart.
    """

    def __init__(self, network: Network, names: Sequence[str] = ()) -> None:
        super().__init__()
        self.names = tuple(names)
        self.sinusoid, self.embedding = network.time_proj, network.time_embedding
        guidance = network.config.get("time_cond_proj_dim")  # which no control network has
        self.guidance = guidance_sinusoid(guidance) if guidance else None
        self.added = AddedEmbedding(network) if network.config.get("addition_embed_type") else None
        self.class_embedding = network.class_embedding if embeds_image(network) else None
        self.project = stacked([resnet.time_emb_proj for resnet in resnets(network)])

    def forward(self, timestep: Tensor, *others: Tensor) -> Tensor:
        """The packed biases of every ResNet for each timestep."""
        known = dict(zip(self.names, others, strict=True))
        dtype, condition = self.project.weight.dtype, None
        if self.guidance is not None:
            condition = self.guidance(1000 * known["guidance"]).to(dtype)
        embedded = self.embedding(self.sinusoid(timestep).to(dtype), condition)
        if self.added is not None:
            embedded = embedded + self.added(known["pooled"], known["size_ids"])
        if self.class_embedding is not None:
            embedded = embedded + self.class_embedding(known["image_embedding"])
        bias: Tensor = self.project(F.silu(embedded))
        return bias


class TimeBiases(nn.Module):
    """The biases of a UNet and of the control networks beside it, side by side; each has an embedding of its own."""

    def __init__(self, *networks: nn.Module, names: Sequence[str] = ()) -> None:
        super().__init__()
        self.branches = nn.ModuleList(TimeBias(network, names) for network in networks)

    def forward(self, timestep: Tensor, *others: Tensor) -> Tensor:
        """The packed biases of every ResNet of every network for each timestep."""
        biases = [branch(timestep, *others) for branch in self.branches]
        return torch.cat(biases, -1) if len(biases) > 1 else biases[0]


def guidance_sinusoid(width: int) -> Timesteps:
    """The embedding of a thousand times the guidance in models distilled with it: Meng et al. (2023).

    As diffusers 0.42.1's get_guidance_scale_embedding, which takes the guidance minus one.
    """
    return Timesteps(width, flip_sin_to_cos=False, downscale_freq_shift=1)


class AddedEmbedding(nn.Module):
    """The term that SDXL adds to the time embedding: Podell et al. (2023), section 2.2."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.sinusoid, self.embedding = unet.add_time_proj, unet.add_embedding

    def forward(self, pooled: Tensor, size_ids: Tensor) -> Tensor:
        """The embedding, (n, width), of pooled text (n, pooled) and sizes float32 (n, ids)."""
        # Column by column: shapes of what is flattened and folded again cannot be told from the batch's symbol.
        sizes = [self.sinusoid(size_ids[:, place]).to(pooled.dtype) for place in range(int(size_ids.shape[1]))]
        embedded: Tensor = self.embedding(torch.cat([pooled, *sizes], -1))
        return embedded
