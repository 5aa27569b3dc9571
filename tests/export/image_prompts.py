"""Small IP-Adapters in the layout of the published files, and an encoder of images: random weights everywhere."""

from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from latentrt_export.checkpoint.named import NamedNetwork
from latentrt_export.networks.hoist import cross_attentions
from tests.export.tiny import seeded

ENCODER = {
    "image_size": 30,
    "patch_size": 10,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "projection_dim": 24,
    "hidden_act": "gelu",
}
# The names of adapters, and whether they are Plus.
PROMPTS = {"style": False, "face": True}
# Plus: its own width and heads, which diffusers takes to be of width 64, and how many tokens it makes.
HIDDEN, HEADS, QUERIES = 40, 1, 6


def saved_prompts(unet: UNet2DConditionModel, folder: Path) -> tuple[NamedNetwork, ...]:
    """Writes an encoder and an IP-Adapter of each kind into a folder, and returns these, which ask for it."""
    saved_encoder(folder / "image_encoder")
    files = {name: folder / f"{name}.safetensors" for name in PROMPTS}
    return tuple(NamedNetwork(name, saved_adapter(unet, file, plus=PROMPTS[name])) for name, file in files.items())


def saved_encoder(folder: Path, **changes: int) -> CLIPVisionModelWithProjection:
    """Writes an encoder of images and returns it; its weights are such that fp16 holds them."""
    config = CLIPVisionConfig(**{**ENCODER, **changes})
    model = seeded(lambda: CLIPVisionModelWithProjection(config)).half().float()
    model.save_pretrained(folder)
    return model


def saved_adapter(unet: UNet2DConditionModel, file: Path, *, plus: bool = False, seed: int = 0) -> Path:
    """Writes an IP-Adapter, or a Plus one, for a UNet, and returns its file. What it adds is not small."""
    context = unet.config.cross_attention_dim
    shapes = plus_shapes(context) if plus else plain_shapes(context)
    random = torch.Generator().manual_seed(seed)
    tensors = {f"image_proj.{name}": drawn(name, shape, random) for name, shape in shapes.items()}
    for place, attn in enumerate(cross_attentions(unet)):
        for part in "kv":
            name = f"ip_adapter.{2 * place + 1}.to_{part}_ip.weight"
            tensors[name] = drawn(name, (attn.to_k.out_features, context), random)
    save_file({name: tensor.half() for name, tensor in tensors.items()}, file)
    return file


def drawn(name: str, shape: Iterable[int], random: torch.Generator) -> Tensor:
    """A tensor whose product with something of deviation 1 has about that too."""
    numbers = torch.randn(*shape, generator=random)
    if "norm" in name or name.endswith(".1.0.weight"):
        return 1 + 0.1 * numbers if name.endswith("weight") else 0.1 * numbers
    return numbers / numbers.shape[-1] ** 0.5


def plain_shapes(context: int) -> dict[str, tuple[int, ...]]:
    """Of IP-Adapter's projection: four tokens."""
    wide = 4 * context
    return {
        "proj.weight": (wide, ENCODER["projection_dim"]),
        "proj.bias": (wide,),
        **dict.fromkeys(("norm.weight", "norm.bias"), (context,)),
    }


def plus_shapes(context: int) -> dict[str, tuple[int, ...]]:
    """Of IP-Adapter Plus's: four layers between its queries and the patches."""
    inner, wide = 64 * HEADS, 4 * HIDDEN
    layer = {
        **dict.fromkeys(("0.norm1.weight", "0.norm1.bias", "0.norm2.weight", "0.norm2.bias"), (HIDDEN,)),
        "0.to_q.weight": (inner, HIDDEN),
        "0.to_kv.weight": (2 * inner, HIDDEN),
        "0.to_out.weight": (HIDDEN, inner),
        **dict.fromkeys(("1.0.weight", "1.0.bias"), (HIDDEN,)),
        "1.1.weight": (wide, HIDDEN),
        "1.3.weight": (HIDDEN, wide),
    }
    return {
        "latents": (1, QUERIES, HIDDEN),
        "proj_in.weight": (HIDDEN, ENCODER["hidden_size"]),
        "proj_in.bias": (HIDDEN,),
        "proj_out.weight": (context, HIDDEN),
        "proj_out.bias": (context,),
        **dict.fromkeys(("norm_out.weight", "norm_out.bias"), (context,)),
        **{f"layers.{place}.{name}": shape for place in range(4) for name, shape in layer.items()},
    }
