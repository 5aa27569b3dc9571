"""FLUX.2's denoiser as components: rows of a text, modulations of all timesteps, and the rest.

All are compared with the undivided transformer, so that the split itself is under the gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from diffusers import Flux2Transformer2DModel
from torch import Tensor

from latentrt.bundle.sources import TIMESTEP, InputSource, Rotary, latents_source, rotary_source, text_source
from latentrt.tensors import TensorSpec
from latentrt_export.components.hoisted import HoistedPart, denoiser_part, shared_inputs
from latentrt_export.components.steering import Run
from latentrt_export.networks.component import PROBES, Part, generator
from latentrt_export.networks.flux2 import HoistedFlux2, Modulations

# The tokens of a probe's texts.
TOKENS = (24, 1)
# The distance in time of a picture's latents and those of its references, in diffusers' Flux2KleinPipeline.
REFERENCES = 10


def transformer_parts(transformer: Flux2Transformer2DModel) -> Iterator[Part]:
    """Yields the graphs hoisted out of the transformer, and the rest of it."""
    time = TensorSpec("timestep", "float32", ("n",))
    context = TensorSpec("context", "float32", ("batch", "tokens", transformer.config.joint_attention_dim))
    rows = ("batch", "tokens")
    hoisted = (
        HoistedPart("time_bias", Modulations(transformer).eval(), {time: TIMESTEP}, ("n",)),
        HoistedPart("context_rows", transformer.context_embedder, {context: text_source("context")}, rows),
    )
    runs = [probe_run(transformer, hoisted, *one) for one in zip(PROBES, TOKENS, strict=True)]
    yield from (one.part(runs) for one in hoisted)
    inputs = inputs_of(transformer, shared_inputs(hoisted, runs))
    build, channels = partial(HoistedFlux2, transformer), transformer.config.in_channels
    yield denoiser_part("transformer", build, inputs, channels, runs)


def inputs_of(
    transformer: Flux2Transformer2DModel, shared: Mapping[TensorSpec, InputSource]
) -> dict[TensorSpec, InputSource]:
    """The inputs of what is left, and the source of each. shared: those that hoisted graphs make."""
    config = transformer.config
    pairs, shape = config.attention_head_dim // 2, ("batch", config.in_channels, "height", "width")
    turns = rotary_source(Rotary(float(config.rope_theta), tuple(config.axes_dims_rope), REFERENCES))
    return {
        TensorSpec("sample", "float32", shape): latents_source(),
        **shared,
        TensorSpec("rotary_text", "float32", (2, "tokens", pairs)): turns,
        TensorSpec("rotary_image", "float32", (2, "height", "width", pairs)): turns,
    }


def probe_run(
    transformer: Flux2Transformer2DModel, hoisted: Sequence[HoistedPart], probe: tuple[int, int, int], tokens: int
) -> Run:
    """Random inputs at one size, and what the transformer and each hoisted graph make of them."""
    (batch, height, width), config, random = probe, transformer.config, generator()
    feeds = {
        "sample": torch.randn(batch, config.in_channels, height, width, generator=random),
        "timestep": torch.rand(batch, generator=random) * 1000,
        "context": torch.randn(batch, tokens, config.joint_attention_dim, generator=random),
    }
    text, image = places(1, 1, tokens), places(height, width, 1)
    with torch.no_grad():
        found = transformer(
            feeds["sample"].flatten(2).transpose(1, 2),
            feeds["context"],
            feeds["timestep"] / 1000,
            img_ids=image,
            txt_ids=text,
        ).sample
        feeds |= {one.name: one.run(feeds) for one in hoisted}
    feeds |= {"rotary_text": turns_of(transformer, text)}
    feeds |= {"rotary_image": turns_of(transformer, image).reshape(2, height, width, -1)}
    return {**feeds, "prediction": found.transpose(1, 2).reshape(batch, -1, height, width)}


def places(height: int, width: int, tokens: int) -> Tensor:
    """Time, row, column and token of every place, (places, 4)."""
    return torch.cartesian_prod(*map(torch.arange, (1, height, width, tokens)))


def turns_of(transformer: Flux2Transformer2DModel, ids: Tensor) -> Tensor:
    """The original's cosines and sines at places, one of each pair, (2, places, pairs)."""
    return torch.stack([one[:, ::2] for one in transformer.pos_embed(ids)])
