"""Splits and traces a UNet's control networks at Stable Diffusion 1.5's full shape, with random weights.

    python -m benchmarks.full_shapes

A ControlNet, a T2I-Adapter, an IP-Adapter and an IP-Adapter Plus with their encoder (ViT-H), all added to one UNet.
Each module is compared with diffusers' and transformers' own on the inputs that an export uses, then traced to a graph.
The tests use small models instead, with fewer levels and layers, whose graphs can differ. Takes 3 minutes and 10 GB.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from unittest.mock import patch

import torch
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from benchmarks.checkpoint import config
from latentrt_export.components.denoiser import unet_parts
from latentrt_export.components.steering import Steering
from latentrt_export.graph.trace import trace
from latentrt_export.networks.component import Part
from latentrt_export.networks.hoist import cross_attentions
from latentrt_export.networks.image_encoder import ImageKV, encoder_part
from tests.export import image_prompts

CONTEXT = 768
VIT_H = {
    "image_size": 224,
    "patch_size": 14,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "projection_dim": 1024,
}


def main() -> None:
    """Prints a line per component."""
    torch.manual_seed(0)
    print("| component | relative error | nodes | s |\n|---|---|---|---|")
    for part in parts():
        start = time.monotonic()
        module = part.build().eval()
        error = worst(part, module)
        nodes = len(list(trace(module, part.inputs, part.outputs).graph))
        print(f"| {part.name} | {error:.1e} | {nodes} | {time.monotonic() - start:.0f} |", flush=True)


def parts() -> Iterator[Part]:
    """Yields the components that depend on control networks; the image encoder last, after the UNet is freed."""
    unet = UNet2DConditionModel.from_config(config("unet")).eval().requires_grad_(False)
    control = ControlNetModel.from_unet(unet).eval().requires_grad_(False)
    last = control.controlnet_cond_embedding.conv_out
    for convolution in (*control.controlnet_down_blocks, control.controlnet_mid_block, last):
        nn.init.normal_(convolution.weight, std=0.02)  # untrained ones are zeros
    with patch.multiple(image_prompts, HIDDEN=CONTEXT, HEADS=12, QUERIES=16, ENCODER=VIT_H):
        unet._load_ip_adapter_weights([state(unet, plus=plus) for plus in (False, True)])
    unet.requires_grad_(False).eval()
    prompts = {name: ImageKV(unet, place) for place, name in enumerate(("plain", "plus"))}
    adapter = T2IAdapter().eval().requires_grad_(False)
    yield from unet_parts(unet, steering=Steering({"canny": control}, {"depth": adapter}, prompts))
    del unet, control
    yield encoder_part(CLIPVisionModelWithProjection(CLIPVisionConfig(**VIT_H)).eval().requires_grad_(False), prompts)


def state(unet: UNet2DConditionModel, *, plus: bool) -> Mapping[str, Mapping[str, Tensor]]:
    """An IP-Adapter's random tensors, in diffusers' layout."""
    random = torch.Generator().manual_seed(0)
    shapes = image_prompts.plus_shapes(CONTEXT) if plus else image_prompts.plain_shapes(CONTEXT)
    attentions = {
        f"{2 * place + 1}.to_{part}_ip.weight": (attn.to_k.out_features, CONTEXT)
        for place, attn in enumerate(cross_attentions(unet))
        for part in "kv"
    }
    return {
        kind: {name: image_prompts.drawn(name, shape, random) for name, shape in known.items()}
        for kind, known in (("image_proj", shapes), ("ip_adapter", attentions))
    }


def worst(part: Part, module: nn.Module) -> float:
    """The largest difference from the original divided by the largest value, over all outputs and inputs."""
    errors = []
    for probe in part.probes:
        with torch.no_grad():
            found = module(*(probe.feeds[spec.name] for spec in part.inputs))
        pairs = zip(found if isinstance(found, tuple) else (found,), probe.references, strict=True)
        errors += [float((got - expected).abs().max() / expected.abs().max()) for got, expected in pairs]
    return max(errors)


if __name__ == "__main__":
    main()
