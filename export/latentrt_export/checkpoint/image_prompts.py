"""IP-Adapters of a checkpoint, Ye et al. (2023): files checked against the UNet and the image encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from latentrt.errors import CheckpointError, first_few
from latentrt_export.checkpoint.builders import BUILDERS
from latentrt_export.checkpoint.folder import folder_source
from latentrt_export.checkpoint.layouts import Shape
from latentrt_export.checkpoint.load import Checkpoint, matched
from latentrt_export.checkpoint.named import NamedNetwork
from latentrt_export.checkpoint.paths import check_there
from latentrt_export.checkpoint.stored import FLOATS, Stored, header, read_tensors, under
from latentrt_export.networks.component import Config
from latentrt_export.networks.hoist import cross_attentions
from latentrt_export.networks.image_encoder import IMAGE_ENCODER, ImageKV, Projection, widths_of

PROJECTION, ATTENTION = "image_proj.", "ip_adapter."
# The tensor that marks a file of each supported kind: IP-Adapter, IP-Adapter Plus.
KINDS = ("proj.weight", "latents")


def with_image_prompts(
    checkpoint: Checkpoint, adapters: Sequence[NamedNetwork], encoder: Path | None = None
) -> Checkpoint:
    """Returns the checkpoint with `adapters` and their image encoder.

    Each is a .safetensors file of IP-Adapter or IP-Adapter Plus. encoder: a folder of transformers'
    CLIPVisionModelWithProjection; None for "image_encoder" beside the first file. Raises CheckpointError for files that
    are missing or damaged, of another kind, or made for another UNet or encoder.
    """
    if not adapters:
        return checkpoint
    folder = encoder or adapters[0].path.parent / IMAGE_ENCODER
    check_there("image encoder", folder)
    component = matched(IMAGE_ENCODER, folder_source(folder, IMAGE_ENCODER))
    opened = {one.name: opened_adapter(one.path, checkpoint, component.config) for one in adapters}
    return replace(checkpoint, components={**checkpoint.components, IMAGE_ENCODER: component}, image_prompts=opened)


def opened_adapter(path: Path, checkpoint: Checkpoint, encoder: Config) -> dict[str, Stored]:
    """The tensors of an IP-Adapter, not read yet. encoder: config of the image encoder."""
    check_there("IP-Adapter", path)
    tensors = header(path)
    if not any(PROJECTION + key in tensors for key in KINDS):
        raise CheckpointError(
            f"{path} has {first_few(sorted(tensors))}: expected {' or '.join(PROJECTION + key for key in KINDS)}, as "
            "IP-Adapter and IP-Adapter Plus have. Its other kinds, Full, FaceID and FaceID Plus, are not supported"
        )
    found = list(differences(tensors, checkpoint, encoder))
    if found:
        raise CheckpointError(
            f"the IP-Adapter {path} does not fit {checkpoint.source} ({checkpoint.family.name}) or its image encoder: "
            f"{'; '.join(found)}. Give one that was made for this family, and its encoder with --image-encoder DIR"
        )
    return tensors


def differences(tensors: Mapping[str, Stored], checkpoint: Checkpoint, encoder: Config) -> Iterator[str]:
    """Yields the reasons why an IP-Adapter does not fit a checkpoint's UNet or its image encoder."""
    unet = BUILDERS["unet"](checkpoint.components["unet"].config)
    expected = attention_shapes(unet)
    found = {key: stored.shape for key, stored in tensors.items() if not key.startswith(PROJECTION)}
    both = sorted(found.keys() & expected.keys())
    kinds = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another shape": [
            f"{key} (got {found[key]}, expected {expected[key]})" for key in both if found[key] != expected[key]
        ],
        f"of a type other than {', '.join(FLOATS)}": [key for key, one in tensors.items() if one.dtype not in FLOATS],
    }
    yield from (f"{kind}: {first_few(keys)}" for kind, keys in kinds.items() if keys)
    try:
        projection = projection_of(unet, tensors)
    except (KeyError, IndexError, RuntimeError) as error:  # diffusers' errors for a file that it cannot load
        yield f"{PROJECTION}*: {' '.join(str(error).split())}"
        return
    context = unet.config.cross_attention_dim
    key, taken, made = widths_of(projection)
    if made != context:
        yield f"{PROJECTION}* makes tokens of width {made}, expected {context}"
    if taken != encoder.get(key):
        yield f"{PROJECTION}* takes features of width {taken}, expected {encoder.get(key)}, the encoder's {key}"


def attention_shapes(unet: UNet2DConditionModel) -> dict[str, Shape]:
    """The shapes of a file's projections per cross-attention; their numbers count self-attention too."""
    return {
        f"{ATTENTION}{2 * place + 1}.to_{part}_ip.weight": (attn.to_k.out_features, attn.to_k.in_features)
        for place, attn in enumerate(cross_attentions(unet))
        for part in "kv"
    }


def projection_of(unet: UNet2DConditionModel, tensors: Mapping[str, Stored]) -> Projection:
    """Diffusers' module of a file's projection, without memory for weights."""
    with torch.device("meta"):
        weights = {key: torch.empty(one.shape) for key, one in under(PROJECTION, tensors).items()}
        weights = {key.removeprefix(PROJECTION): weight for key, weight in weights.items()}
        return unet._convert_ip_adapter_image_proj_to_diffusers(weights, low_cpu_mem_usage=False)


def add_image_prompts(unet: UNet2DConditionModel, adapters: Mapping[str, Mapping[str, Stored]]) -> dict[str, ImageKV]:
    """Adds IP-Adapters to a UNet, in place, as diffusers 0.42.1's `load_ip_adapter` does; returns them by name."""
    if adapters:
        unet._load_ip_adapter_weights([state_of(read_tensors(tensors)) for tensors in adapters.values()])
        unet.requires_grad_(False).eval()
    return {name: ImageKV(unet, place) for place, name in enumerate(adapters)}


def state_of(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """A file's tensors in the form that diffusers takes: by part, without the part's name in the keys."""
    return {
        part.rstrip("."): {key.removeprefix(part): one for key, one in tensors.items() if key.startswith(part)}
        for part in (PROJECTION, ATTENTION)
    }
