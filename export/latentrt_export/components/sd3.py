"""Stable Diffusion 3's denoiser as components: rows of a text, modulations of all timesteps and texts, and the rest.

All are compared with the undivided transformer, so that the split itself is under the gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from diffusers import SD3Transformer2DModel

from latentrt.bundle.sources import (
    CONTEXT_ROWS,
    TIMESTEP,
    InputSource,
    Positions,
    latents_source,
    positions_source,
    text_source,
)
from latentrt.conditioning.positions import numbers, sinusoids
from latentrt.errors import CheckpointError
from latentrt.tensors import TensorSpec
from latentrt_export.components.hoisted import HoistedPart, denoiser_part, shared_inputs
from latentrt_export.components.steering import Run
from latentrt_export.networks.component import Part, generator, probes_of
from latentrt_export.networks.sd3 import HoistedSD3, Modulations, position_table

# The tokens of a probe's texts.
TOKENS = (24, 1)
# The most that a stored position may differ from its sinusoid: what bfloat16 rounds.
MOST_ROUNDED = 2.0**-8


def transformer_parts(transformer: SD3Transformer2DModel) -> Iterator[Part]:
    """Yields the graphs hoisted out of the transformer, and the rest of it.

    Raises CheckpointError for a table of positions that is not made of sinusoids.
    """
    config = transformer.config
    check_positions(transformer)
    time = TensorSpec("timestep", "float32", ("n",))
    pooled = TensorSpec("pooled", "float32", ("n", config.pooled_projection_dim))
    context = TensorSpec("context", "float32", ("batch", "tokens", config.joint_attention_dim))
    times, texts = {time: TIMESTEP, pooled: text_source("pooled")}, {context: text_source("context")}
    hoisted = (
        HoistedPart("time_bias", Modulations(transformer).eval(), times, ("n",)),
        HoistedPart(CONTEXT_ROWS, transformer.context_embedder, texts, ("batch", "tokens")),
    )
    probes = zip(probes_of(config.patch_size), TOKENS, strict=True)
    runs = [probe_run(transformer, hoisted, probe, tokens) for probe, tokens in probes]
    yield from (one.part(runs) for one in hoisted)
    inputs = inputs_of(transformer, shared_inputs(hoisted, runs))
    factors = dict.fromkeys(("multiple", "attention_factor"), config.patch_size)
    yield denoiser_part("transformer", partial(HoistedSD3, transformer), inputs, config.in_channels, runs, **factors)


def inputs_of(
    transformer: SD3Transformer2DModel, shared: Mapping[TensorSpec, InputSource]
) -> dict[TensorSpec, InputSource]:
    """The inputs of what is left, and the source of each. shared: those that hoisted graphs make."""
    config, width = transformer.config, transformer.pos_embed.proj.out_channels
    patch, shape = config.patch_size, ("batch", config.in_channels, "height", "width")
    table = TensorSpec("positions", "float32", (width, f"height/{patch}", f"width/{patch}"))
    source = positions_source(numbering(transformer))
    return {TensorSpec("sample", "float32", shape): latents_source(), **shared, table: source}


def numbering(transformer: SD3Transformer2DModel) -> Positions:
    """The numbers of the patches in the table of positions."""
    embed = transformer.pos_embed
    return Positions(int(embed.base_size), float(embed.interpolation_scale), int(embed.pos_embed_max_size))


def check_positions(transformer: SD3Transformer2DModel) -> None:
    """Raises CheckpointError unless the stored table has the sinusoids that are made here in its place.

    Its first half of channels is of the column, the second of the row, so that one line of each tells all.
    """
    positions = numbering(transformer)
    side = positions.table
    stored = transformer.pos_embed.pos_embed[0].reshape(side, side, -1)
    half = stored.shape[-1] // 2
    expected = sinusoids(numbers(side, positions), half)
    lines = stored[0, :, :half].T, stored[:, 0, half:].T
    furthest = max(float(np.abs(one.float().numpy() - expected).max()) for one in lines)
    if not furthest <= MOST_ROUNDED:
        raise CheckpointError(
            f"transformer pos_embed.pos_embed: got positions that differ by {furthest:.3g} from the sinusoids of its "
            f"config, expected at most {MOST_ROUNDED:.3g}; fetch the checkpoint again"
        )


def probe_run(
    transformer: SD3Transformer2DModel, hoisted: Sequence[HoistedPart], probe: tuple[int, int, int], tokens: int
) -> Run:
    """Random inputs at one size, and what the transformer and each hoisted graph make of them."""
    (batch, height, width), config, random = probe, transformer.config, generator()
    feeds = {
        "sample": torch.randn(batch, config.in_channels, height, width, generator=random),
        "timestep": torch.rand(batch, generator=random) * 1000,
        "pooled": torch.randn(batch, config.pooled_projection_dim, generator=random),
        "context": torch.randn(batch, tokens, config.joint_attention_dim, generator=random),
        "positions": position_table(transformer, height, width),
    }
    with torch.no_grad():
        whole = transformer(feeds["sample"], feeds["context"], feeds["pooled"], feeds["timestep"]).sample
        feeds |= {one.name: one.run(feeds) for one in hoisted}
    return {**feeds, "prediction": whole}
