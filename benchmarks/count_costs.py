"""Counts the costs of published models from the graphs that `latentrt export` would write.

    python -m benchmarks.count_costs        writes benchmarks/costs.json; 4 minutes of one core, 2 GB of memory

The modules are built from their public configs without memory for weights (each is one repeated number) and traced like
any checkpoint. Torch's own count, of the same modules on its meta device, is stored too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.costs import save_entries
from benchmarks.counted import Counted, entries_of
from benchmarks.counted_transformers import transformer_modules
from latentrt.tensors import TensorSpec
from latentrt_export.checkpoint.families import FAMILIES
from latentrt_export.networks.autoencoder import VaeDecoder
from latentrt_export.networks.hoist import CrossKV, HoistedUNet
from latentrt_export.networks.text_encoder import TextEncoder
from latentrt_export.networks.time_bias import TimeBias, time_inputs

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
# The sizes that SDXL's time embedding takes.
SIZE_IDS = next(family.size_ids for family in FAMILIES if family.name == "sdxl")
# CLIP ViT-bigG/14, SDXL's second text encoder.
BIG_TEXT = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32}


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
    yield from transformer_modules()


def square(side: int, *batches: int) -> tuple[Mapping[str, int], ...]:
    """Axis sizes for square pictures."""
    return tuple({"batch": batch, "height": side, "width": side, "tokens": TOKENS, "n": 1} for batch in batches)


def unet(model: str, config: dict[str, Any], sizes: tuple[Mapping[str, int], ...]) -> Iterator[Counted]:
    """The UNet and its hoisted parts: cross-attention's keys and values, and the time embedding."""
    with torch.device("meta"):
        whole = UNet2DConditionModel.from_config(config)
    times = [one.spec for one in time_inputs(whole, SIZE_IDS)]
    kv, bias = CrossKV(whole), TimeBias(whole, [spec.name for spec in times[1:]])
    kv_width, bias_width = kv.project.out_features, bias.project.out_features
    context = TensorSpec("context", "float32", ("batch", "tokens", config["cross_attention_dim"]))
    packed = TensorSpec("cross_kv", "float32", ("batch", "tokens", kv_width))
    yield Counted(f"{model}/cross_kv", kv, (context,), packed, sizes[-1:])
    biases = TensorSpec("time_bias", "float32", ("n", bias_width))
    yield Counted(f"{model}/time_bias", bias, tuple(times), biases, sizes[-1:])
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
