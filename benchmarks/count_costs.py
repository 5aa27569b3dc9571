"""Counts the costs of Stable Diffusion 1.5, SD-Turbo and SDXL from the graphs that `latentrt export` would write.

    python -m benchmarks.count_costs        writes benchmarks/costs.json; six minutes, 5 GB of memory, nothing on disk

The modules are built from their public configs without memory for weights (each is one repeated number) and traced like
any checkpoint. Torch's own count, of the same modules on its meta device, is stored too.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.costs import save_entries, write
from latentrt.tensors import TensorSpec, shape_of
from latentrt_export.graph.costs import cost_of
from latentrt_export.graph.trace import trace
from latentrt_export.networks.autoencoder import VaeDecoder
from latentrt_export.networks.hoist import CrossKV, HoistedUNet
from latentrt_export.networks.text_encoder import TextEncoder
from latentrt_export.networks.time_bias import TimeBias

SD15 = Path(__file__).parents[1] / "export" / "latentrt_export" / "configs" / "sd15"
TOKENS = 77

# What differs from Stable Diffusion 1.5 in the configs that stabilityai/sd-turbo and stabilityai/sdxl-base-1.0 publish.
TURBO = {"attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "use_linear_projection": True}
SDXL = {
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
# CLIP ViT-bigG/14, SDXL's second text encoder.
BIG_TEXT = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32}


@dataclass(frozen=True)
class Counted:
    """A module to count. sizes: values of its symbolic axes, one count for each."""

    name: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    sizes: tuple[Mapping[str, int], ...]


def config(name: str) -> dict[str, Any]:
    """Stable Diffusion 1.5's config of one component."""
    loaded: dict[str, Any] = json.loads((SD15 / f"{name}.json").read_text())
    return loaded


def modules() -> Iterator[Counted]:
    """Yields the modules to count, each made when it is needed."""
    yield from unet("sd15", config("unet"), square(64, 1, 2, 4))
    yield from unet("sd-turbo", config("unet") | TURBO, square(64, 1))
    yield from unet("sdxl", config("unet") | SDXL, square(128, 2))
    yield text("sd15/text_encoder", config("text_encoder"))
    yield text("sdxl/text_encoder_2", config("text_encoder") | BIG_TEXT)
    with torch.device("meta"):
        decoder = VaeDecoder(AutoencoderKL.from_config(config("vae")))
    latents = TensorSpec("latents", "float32", ("batch", 4, "height", "width"))
    image = TensorSpec("image", "float32", ("batch", 3, "8*height", "8*width"))
    yield Counted("vae_decoder", decoder, (latents,), image, (*square(64, 1), *square(128, 1)))


def square(side: int, *batches: int) -> tuple[Mapping[str, int], ...]:
    """Axis sizes for square pictures."""
    return tuple({"batch": batch, "height": side, "width": side, "tokens": TOKENS, "n": 1} for batch in batches)


def unet(model: str, config: dict[str, Any], sizes: tuple[Mapping[str, int], ...]) -> Iterator[Counted]:
    """The UNet and its hoisted parts: cross-attention's keys and values, and the time embedding."""
    with torch.device("meta"):
        whole = UNet2DConditionModel.from_config(config)
    kv, bias = CrossKV(whole), TimeBias(whole)
    kv_width, bias_width = kv.project.out_features, bias.project.out_features
    context = TensorSpec("context", "float32", ("batch", "tokens", config["cross_attention_dim"]))
    packed = TensorSpec("cross_kv", "float32", ("batch", "tokens", kv_width))
    yield Counted(f"{model}/cross_kv", kv, (context,), packed, sizes[-1:])
    timestep, biases = (
        TensorSpec("timestep", "float32", ("n",)),
        TensorSpec("time_bias", "float32", ("n", bias_width)),
    )
    yield Counted(f"{model}/time_bias", bias, (timestep,), biases, sizes[-1:])
    sample = TensorSpec("sample", "float32", ("batch", 4, "height", "width"))
    time_bias = TensorSpec("time_bias", "float32", ("batch", bias_width))
    prediction = TensorSpec("prediction", "float32", ("batch", 4, "height", "width"))
    yield Counted(f"{model}/unet", HoistedUNet(whole), (sample, time_bias, packed), prediction, sizes)


def text(name: str, config: dict[str, Any]) -> Counted:
    """A text encoder, for a prompt and a negative prompt."""
    with torch.device("meta"):
        encoder = TextEncoder(CLIPTextModel(CLIPTextConfig(**config)))
    ids = TensorSpec("input_ids", "int64", ("batch", TOKENS))
    skip = TensorSpec("clip_skip", "int64", (1,))
    context = TensorSpec("context", "float32", ("batch", TOKENS, config["hidden_size"]))
    return Counted(name, encoder, (ids, skip), context, square(64, 2))


def entries_of(counted: Counted) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of a module at all of its sizes."""
    shapes = [{spec.name: shape_of(spec, sizes) for spec in counted.inputs} for sizes in counted.sizes]
    references = [torch_macs(counted, sizes) for sizes in counted.sizes]
    without_weights(counted.module)
    model = trace(counted.module, counted.inputs, [counted.output])
    for sizes, one, reference in zip(counted.sizes, shapes, references, strict=True):
        place = "{height}x{width}/batch{batch}".format(**sizes)
        yield f"{counted.name}/{place}", {"torch_macs": reference, **write(cost_of(model, one))}


def torch_macs(counted: Counted, sizes: Mapping[str, int]) -> int:
    """Multiply-adds by torch's count, for a module on the meta device."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        inputs = [torch.ones(shape_of(spec, sizes), dtype=getattr(torch, spec.dtype)) for spec in counted.inputs]
        counted.module.eval()(*inputs)
    return int(counter.get_total_flops()) // 2


def without_weights(module: nn.Module) -> None:
    """Gives a module on the meta device weights for computing: each is one number, repeated.

    Numbers differ between weights; otherwise the tracer would merge those of the same shape.
    """
    numbers = itertools.count(1)
    for part in module.modules():
        for name, tensor in [*part._parameters.items(), *part._buffers.items()]:
            if tensor is None or tensor.device.type != "meta":
                continue
            repeated = torch.tensor(next(numbers) * 1e-6, dtype=tensor.dtype).expand(tensor.shape)
            if name in part._parameters:
                part._parameters[name] = nn.Parameter(repeated, requires_grad=False)
            else:
                part._buffers[name] = repeated


def main() -> None:
    """Counts everything and prints progress."""
    entries: dict[str, dict[str, Any]] = {}
    for counted in modules():
        for name, entry in entries_of(counted):
            print(f"{name}: {entry['macs']} MACs, torch {entry['torch_macs']}", flush=True)
            entries[name] = entry
    save_entries(entries)


if __name__ == "__main__":
    main()
