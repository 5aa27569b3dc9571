"""PixArt's denoiser as components: captions' keys and values, modulations of all timesteps, and the rest.

All are compared with the undivided transformer, so that the split itself is under the gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from diffusers import PixArtTransformer2DModel

from latentrt.bundle.sources import (
    TIMESTEP,
    InputSource,
    Positions,
    SizeId,
    latents_source,
    positions_source,
    request_source,
    text_source,
)
from latentrt.tensors import TensorSpec
from latentrt_export.components.hoisted import HoistedPart, denoiser_part, shared_inputs
from latentrt_export.components.steering import Run
from latentrt_export.networks.component import Part, generator, probes_of
from latentrt_export.networks.pixart import CaptionKV, HoistedPixArt, Modulations, position_table

# The tokens of a probe's captions: those of a usual prompt, and the one of an empty text.
TOKENS = (24, 1)
SIZES: tuple[SizeId, ...] = ("target_height", "target_width")


def transformer_parts(transformer: PixArtTransformer2DModel) -> Iterator[Part]:
    """Yields the graphs hoisted out of the transformer, and the rest of it."""
    times = {TensorSpec("timestep", "float32", ("n",)): TIMESTEP}
    if transformer.config.use_additional_conditions:
        times[TensorSpec("size_ids", "float32", ("n", len(SIZES)))] = request_source(*SIZES)
    context = TensorSpec("context", "float32", ("batch", "tokens", transformer.config.caption_channels))
    hoisted = (
        HoistedPart("time_bias", Modulations(transformer).eval(), times, ("n",)),
        HoistedPart("cross_kv", CaptionKV(transformer).eval(), {context: text_source("context")}, ("batch", "tokens")),
    )
    runs = probe_runs(transformer, hoisted)
    yield from (one.part(runs) for one in hoisted)
    inputs = inputs_of(transformer, shared_inputs(hoisted, runs))
    factors = dict.fromkeys(("multiple", "attention_factor"), transformer.config.patch_size)
    build, channels = partial(HoistedPixArt, transformer), transformer.config.in_channels
    yield denoiser_part("transformer", build, inputs, channels, runs, **factors)


def inputs_of(
    transformer: PixArtTransformer2DModel, shared: Mapping[TensorSpec, InputSource]
) -> dict[TensorSpec, InputSource]:
    """The inputs of what is left, and the source of each. shared: those that hoisted graphs make."""
    config, embed = transformer.config, transformer.pos_embed
    patch, shape = config.patch_size, ("batch", config.in_channels, "height", "width")
    table = TensorSpec("positions", "float32", (embed.proj.out_channels, f"height/{patch}", f"width/{patch}"))
    numbering = Positions(int(embed.base_size), float(embed.interpolation_scale))
    return {TensorSpec("sample", "float32", shape): latents_source(), **shared, table: positions_source(numbering)}


def probe_runs(transformer: PixArtTransformer2DModel, hoisted: Sequence[HoistedPart]) -> list[Run]:
    """Inputs of the undivided transformer and of its parts, and what each makes of them."""
    return [
        probe_run(transformer, hoisted, probe, tokens)
        for probe, tokens in zip(probes_of(transformer.config.patch_size), TOKENS, strict=True)
    ]


def probe_run(
    transformer: PixArtTransformer2DModel, hoisted: Sequence[HoistedPart], probe: tuple[int, int, int], tokens: int
) -> Run:
    """Random inputs at one size, and what the transformer and each hoisted graph make of them."""
    (batch, height, width), config, random = probe, transformer.config, generator()
    feeds = {
        "sample": torch.randn(batch, config.in_channels, height, width, generator=random),
        "timestep": torch.rand(batch, generator=random) * 999,
        "context": torch.randn(batch, tokens, config.caption_channels, generator=random),
        "size_ids": torch.rand(batch, len(SIZES), generator=random) * 1024 + 64,
        "positions": position_table(transformer, height, width),
    }
    tall, wide = feeds["size_ids"].unbind(1)
    added = {"resolution": feeds["size_ids"], "aspect_ratio": (tall / wide)[:, None]}
    with torch.no_grad():
        whole = transformer(feeds["sample"], feeds["context"], feeds["timestep"], added_cond_kwargs=added).sample
        feeds |= {one.name: one.run(feeds) for one in hoisted}
    return {**feeds, "prediction": whole[:, : config.in_channels]}
