"""The built-in model as torch modules again, so that what the bundle computes can be held against diffusers.

The checkpoint itself is not in the repository; its weights are, as the graphs' initialisers under the names of the
traced modules' tensors. The configs in `emoji/` are the checkpoint's own. Undone here, in the order in which they were
done: fp16 storage, views (transposed linear weights, norms with two axes more), stacking, and the wrappers' names.
"""

import json
import re
from pathlib import Path

import onnx
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from onnx import numpy_helper
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

BUNDLE = Path(__file__).parents[2] / "runtime" / "latentrt" / "models" / "emoji"
CONFIGS = Path(__file__).parent / "emoji"
WEIGHT = re.compile(r"(.+\.(?:weight|bias))(\.[0-9x]+)?(?:\.fp16)?")


def build_unet() -> UNet2DConditionModel:
    """Returns the built-in UNet, whole: what left it for cross_kv and time_bias is back in its place."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config("unet"))
    tensors = renamed(weights("unet"), {"unet": ""}) | renamed(weights("time_bias"), {"embedding": "time_embedding"})
    attentions = [name for name, _ in unet.named_modules() if name.endswith(".attn2")]
    places = [f"{name}.{letter}" for name in attentions for letter in ("to_k", "to_v")]
    resnets = [name for name, module in unet.named_modules() if hasattr(module, "time_emb_proj")]
    tensors |= unstacked(weights("cross_kv"), unet, places)
    tensors |= unstacked(weights("time_bias"), unet, [f"{name}.time_emb_proj" for name in resnets])
    return filled(unet, tensors)


def build_vae() -> AutoencoderKL:
    """Returns the built-in VAE, both halves."""
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(config("vae"))
    decoder = renamed(weights("vae_decoder"), {"post_quant": "post_quant_conv", "decoder": "decoder"})
    return filled(vae, decoder | renamed(weights("vae_encoder"), {"quant": "quant_conv", "encoder": "encoder"}))


def build_text_encoder() -> CLIPTextModel:
    """Returns the built-in text encoder."""
    model = CLIPTextModel(CLIPTextConfig.from_dict({**config("text_encoder"), "dtype": "float32"}))
    places = {"embeddings": "embeddings", "layers": "encoder.layers", "final_layer_norm": "final_layer_norm"}
    return filled(model, renamed(weights("text_encoder"), places))


def config(name: str) -> dict[str, object]:
    """Returns one of the checkpoint's configs: unet, vae, text_encoder or scheduler."""
    return json.loads((CONFIGS / f"{name}.json").read_text())


def weights(component: str) -> dict[str, Tensor]:
    """Returns a graph's weights in float32 and as the module had them, by their names in the traced module."""
    found = {}
    for initializer in onnx.load(BUNDLE / f"{component}.onnx").graph.initializer:
        if match := WEIGHT.fullmatch(initializer.name):
            tensor = torch.from_numpy(numpy_helper.to_array(initializer).copy()).float()
            found[match[1]] = unviewed(tensor) if match[2] else tensor
    return found


def unviewed(tensor: Tensor) -> Tensor:
    """Returns a linear weight, or a norm's, as it was before the exporter turned or unsqueezed it."""
    return tensor.T.contiguous() if tensor.ndim == 2 else tensor.flatten()


def renamed(tensors: dict[str, Tensor], prefixes: dict[str, str]) -> dict[str, Tensor]:
    """Returns the tensors under one of `prefixes`, that prefix exchanged; "" for none."""
    result = {}
    for name, tensor in tensors.items():
        first, rest = name.split(".", 1)
        if first in prefixes:
            result[".".join(filter(None, (prefixes[first], rest)))] = tensor
    return result


def unstacked(tensors: dict[str, Tensor], module: nn.Module, places: list[str]) -> dict[str, Tensor]:
    """Returns the rows of the one layer `project` as the layers at `places` in `module`, in that order."""
    widths = [module.get_submodule(place).out_features for place in places]
    return {
        f"{place}.{leaf}": part.clone()
        for leaf in ("weight", "bias")
        if f"project.{leaf}" in tensors
        for place, part in zip(places, tensors[f"project.{leaf}"].split(widths), strict=True)
    }


def filled(module: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    """Returns `module` with exactly `tensors` for weights."""
    module.load_state_dict(tensors, assign=True, strict=True)
    return module.eval().requires_grad_(False)
