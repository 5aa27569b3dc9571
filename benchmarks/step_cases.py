"""UNets whose steps are timed: their graphs, their feeds, and torch modules that compute the same."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.bundle.catalog import MODELS
from latentrt.bundle.manifest import Component, Fidelity
from latentrt.bundle.manifest_json import read
from latentrt.tensors import Array, TensorSpec, read_only, shape_of

# Differences of SDXL's UNet config from Stable Diffusion 1.5's: stabilityai/stable-diffusion-xl-base-1.0,
# unet/config.json.
SDXL = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
}
BUILT_IN = {
    "sample_size": 16,
    "block_out_channels": [64, 128, 224],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 256,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
}
TINY = {
    "block_out_channels": [16, 32, 32, 32],
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}


@dataclass(frozen=True)
class Case:
    """A UNet.

    changes: differences from Stable Diffusion 1.5's config. side: of the square latents. dtype: torch's, and of a graph
    made here. ships: whether the graph is that of the built-in model.
    """

    changes: Mapping[str, Any]
    side: int
    tokens: int
    dtype: str = "float16"
    ships: bool = False


CASES = {
    "built-in": Case(BUILT_IN, 16, 32, "float32", ships=True),
    "sd15": Case({}, 64, 77),
    "sdxl": Case(SDXL, 128, 77),
}


@dataclass(frozen=True)
class Setup:
    """What the ways of a case share. feeds: of two steps, which differ in latents and timestep alone.

    unet: diffusers' UNet, None if torch is not asked for. context: what it attends to. timesteps: of the two steps.
    same_weights: whether it has the graph's weights.
    """

    engine: str
    component: Component
    graph: Path
    feeds: tuple[Mapping[str, Array], ...]
    unet: Any = None
    context: Any = None
    timesteps: Sequence[int] = (801, 401)
    same_weights: bool = False

    @property
    def device(self) -> str:
        """torch's device."""
        return "cpu" if self.engine == "onnxruntime" else "cuda"


def prepared(case: Case, name: str, work: Path, engine: str, *, batch: int, torch: bool) -> Setup:
    """The graph of a case and its feeds. torch: with the torch UNet, on its device. work: where graphs are kept."""
    unet = torch_unet(case) if torch or not case.ships else None
    if case.ships:
        component = read((MODELS / "emoji/bundle.json").read_bytes()).components["unet"]
        path = MODELS / "emoji" / component.file
    else:
        component, path = traced(unet, case, work / name)
    setup = Setup(engine, component, path, random_feeds(component, case, batch))
    return setup if unet is None else with_torch(setup, unet, case, batch)


def tiny(case: Case) -> Case:
    """The case with small widths and sides; the built-in model is small."""
    if case.ships:
        return case
    levels = len(case.changes.get("block_out_channels", TINY["block_out_channels"]))
    small = {**TINY, "block_out_channels": TINY["block_out_channels"][:levels], "transformer_layers_per_block": 1}
    return Case({**case.changes, **small}, 8, 5)


def torch_unet(case: Case) -> Any:
    """diffusers' UNet of a case with random weights, on the CPU."""
    import torch
    from diffusers import UNet2DConditionModel

    from benchmarks.checkpoint import config

    known = {**config("unet"), **case.changes}
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(known).eval()
    return unet.half() if case.dtype == "float16" else unet


def traced(unet: Any, case: Case, folder: Path) -> tuple[Component, Path]:
    """The component and the graph of a UNet, as `latentrt export` makes them; the graph is kept."""
    from latentrt_export.graph.save import save_graph
    from latentrt_export.graph.trace import trace
    from latentrt_export.networks.hoist import HoistedUNet, widths_of

    kv, bias = widths_of(unet)
    inputs = (
        TensorSpec("sample", case.dtype, ("batch", 4, "height", "width")),
        TensorSpec("time_bias", case.dtype, ("batch", bias)),
        TensorSpec("cross_kv", case.dtype, ("batch", "tokens", kv)),
    )
    outputs = (TensorSpec("prediction", case.dtype, ("batch", 4, "height", "width")),)
    path = folder / "unet.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        save_graph(trace(HoistedUNet(copy.deepcopy(unet)), inputs, outputs), folder, "unet")
    precision = "fp16" if case.dtype == "float16" else "fp32"
    return Component("denoiser", "unet.onnx", (), precision, inputs, outputs, Fidelity(0.0, None, "none")), path


def random_feeds(component: Component, case: Case, batch: int) -> tuple[Mapping[str, Array], ...]:
    """Feeds of normal numbers for two steps; the prompt's are the same arrays in both."""
    random = np.random.default_rng(0)
    sizes = {"batch": batch, "height": case.side, "width": case.side, "tokens": case.tokens}

    def drawn() -> dict[str, Array]:
        return {
            spec.name: random.standard_normal(shape_of(spec, sizes), np.float32).astype(spec.dtype)
            for spec in component.inputs
        }

    constant = {"cross_kv": read_only(drawn()["cross_kv"])}
    return {**drawn(), **constant}, {**drawn(), **constant}


def with_torch(setup: Setup, unet: Any, case: Case, batch: int) -> Setup:
    """The setup with the UNet on torch's device; the graph is fed what the UNet computes of prompt and timestep."""
    import torch

    from latentrt_export.networks.hoist import CrossKV
    from latentrt_export.networks.time_bias import TimeBias

    width = unet.config["cross_attention_dim"]
    context = torch.randn(batch, case.tokens, width, generator=torch.Generator().manual_seed(0))
    context = context.to(getattr(torch, case.dtype))
    with torch.no_grad():
        constant = {"cross_kv": read_only(CrossKV(unet)(context).numpy().copy())}
        biases = [TimeBias(unet)(torch.full((batch,), float(timestep))).numpy() for timestep in setup.timesteps]
    feeds = [{**feeds, "time_bias": bias, **constant} for feeds, bias in zip(setup.feeds, biases, strict=True)]
    return replace(
        setup,
        feeds=setup.feeds if case.ships else tuple(feeds),
        unet=unet.to(setup.device),
        context=context.to(setup.device),
        same_weights=not case.ships,
    )
