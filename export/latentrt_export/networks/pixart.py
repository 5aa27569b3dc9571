"""PixArt's transformer as modules: what depends on the prompt or the timestep alone leaves the loop.

Chen et al. (2023), "PixArt-alpha", and (2024), "PixArt-Sigma"; `PixArtTransformer2DModel` of diffusers 0.42.1, which
the modules together must match. Positions are an input: the original computes its table anew for every other size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import PixArtTransformer2DModel
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import Tensor, nn

from latentrt_export.networks.component import Config
from latentrt_export.networks.hoist import CrossKV, hoist
from latentrt_export.networks.kinds import Configs, Fitting, TransformerKind
from latentrt_export.networks.patches import kept_rows

# Rows of a block's table: shift, scale and gate of attention, then of the feed-forward layer.
BLOCK_ROWS = 6
SCALES = (1, 4)
# Rows of the last table: shift and scale.
LAST_SCALE = 1
# Entries of diffusers 0.42.1's PixArtTransformer2DModel.
DEFAULTS: Config = {
    **{"num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8, "num_layers": 28},
    **{"cross_attention_dim": 1152, "sample_size": 128, "patch_size": 2, "caption_channels": None},
    **{"activation_fn": "gelu-approximate", "attention_bias": True, "attention_type": "default"},
    **{"norm_type": "ada_norm_single", "norm_elementwise_affine": False, "upcast_attention": False},
    **{"interpolation_scale": None, "use_additional_conditions": None},
}
# The size of latents from which PixArt's transformers take the picture's size too, unless their config says otherwise.
CONDITIONED_SIZE, UNSCALED_SIZE = 128, 64


class CaptionKV(nn.Module):
    """context (batch, tokens, caption channels) -> keys and values of all blocks, packed as of `CrossKV`."""

    def __init__(self, transformer: PixArtTransformer2DModel) -> None:
        super().__init__()
        self.caption, self.kv = transformer.caption_projection, CrossKV(transformer)

    def forward(self, context: Tensor) -> Tensor:
        """The packed projections of the captions' states."""
        projected: Tensor = self.kv(self.caption(context))
        return projected


class Modulations(nn.Module):
    """timestep float32 (n) -> (n, width * (6 * blocks + 2)): shifts, scales and gates of all blocks, and the last two.

    The learned tables are added, and 1 to every scale. The timestep's sinusoid stays in float32, as in `TimeBias`.
    size_ids: float32 (n, 2), height and width in pixels, of models with `use_additional_conditions`.
    """

    tables: Tensor
    last: Tensor

    def __init__(self, transformer: PixArtTransformer2DModel) -> None:
        super().__init__()
        self.embedding, self.project = transformer.adaln_single.emb, transformer.adaln_single.linear
        tables = torch.stack([block.scale_shift_table.detach() for block in transformer.transformer_blocks])
        last = transformer.scale_shift_table.detach().clone()
        tables[:, SCALES, :] += 1
        last[LAST_SCALE] += 1
        self.register_buffer("tables", tables.flatten(1))
        self.register_buffer("last", last.flatten())

    def forward(self, timestep: Tensor, size_ids: Tensor | None = None) -> Tensor:
        """The packed rows of every table for each timestep."""
        embedded = self.embedded(timestep, size_ids)
        blocks = self.project(F.silu(embedded))[:, None] + self.tables
        return torch.cat([blocks.flatten(1), torch.cat([embedded, embedded], -1) + self.last], -1)

    def embedded(self, timestep: Tensor, size_ids: Tensor | None) -> Tensor:
        """The embedding of the timestep, and of the picture's size and shape, (n, width)."""
        emb, dtype = self.embedding, self.project.weight.dtype
        embedded: Tensor = emb.timestep_embedder(emb.time_proj(timestep).to(dtype))
        if size_ids is None:
            return embedded
        height, width = size_ids[:, 0], size_ids[:, 1]
        sizes = [emb.resolution_embedder(emb.additional_condition_proj(one).to(dtype)) for one in (height, width)]
        aspect = emb.aspect_ratio_embedder(emb.additional_condition_proj(height / width).to(dtype))
        return embedded + torch.cat([*sizes, aspect], -1)


class HoistedPixArt(nn.Module):
    """The transformer without the parts that hoisted graphs computed beforehand.

    Takes over the modules of `transformer`, which cannot be called by itself any more. Of a model that predicts a
    variance too, as PixArt's do, only the rows of the prediction are kept.
    """

    def __init__(self, transformer: PixArtTransformer2DModel) -> None:
        super().__init__()
        hoist(transformer)
        config = transformer.config
        self.patch, self.channels = config.patch_size, config.in_channels
        self.patches, self.blocks = transformer.pos_embed.proj, transformer.transformer_blocks
        self.norm, self.project = transformer.norm_out, kept_rows(transformer)
        for block in self.blocks:
            block.scale_shift_table = None  # which `Modulations` has

    def forward(self, sample: Tensor, time_bias: Tensor, cross_kv: Tensor, positions: Tensor) -> Tensor:
        """The prediction, (batch, channels, height, width), from latents of that shape.

        time_bias: (batch, rows * width). cross_kv: (batch, tokens, kv). positions: (width, rows, columns) of patches.
        """
        grid = self.patches(sample) + positions
        hidden = grid.flatten(2).transpose(1, 2)
        *rows, shift, scale = torch.split(time_bias[:, None], int(grid.shape[1]), -1)
        for place, block in enumerate(self.blocks):
            hidden = block_output(block, hidden, rows[BLOCK_ROWS * place : BLOCK_ROWS * (place + 1)], cross_kv)
        made = self.project(self.norm(hidden) * scale + shift).transpose(1, 2)
        pixels = made.reshape(grid.shape[0], self.channels * self.patch**2, grid.shape[2], grid.shape[3])
        return F.pixel_shuffle(pixels, self.patch)


def block_output(block: Any, hidden: Tensor, rows: list[Tensor], cross_kv: Tensor) -> Tensor:
    """The output of one block, (batch, tokens, width). rows: its six modulations, (batch, 1, width) each."""
    shift, scale, gate, shift_after, scale_after, gate_after = rows
    hidden = hidden + gate * block.attn1(block.norm1(hidden) * scale + shift)
    hidden = hidden + block.attn2(hidden, encoder_hidden_states=(cross_kv,))
    made: Tensor = hidden + gate_after * block.ff(block.norm2(hidden) * scale_after + shift_after)
    return made


def position_table(transformer: PixArtTransformer2DModel, height: int, width: int) -> Tensor:
    """The original's positions, (width, rows, columns) of patches, for latents of that size."""
    embed, patch = transformer.pos_embed, transformer.config.patch_size
    rows, columns = height // patch, width // patch
    table = get_2d_sincos_pos_embed(
        embed.proj.out_channels,
        (rows, columns),
        base_size=embed.base_size,
        interpolation_scale=embed.interpolation_scale,
        output_type="pt",
        device="cpu",
    )
    found: Tensor = table.float().T.reshape(-1, rows, columns)
    return found


def completed(config: Config) -> dict[str, Any]:
    """A config with the entries that it leaves out, as the class fills them in."""
    whole = {**DEFAULTS, **config}
    size = int(whole["sample_size"])
    usual = {
        "interpolation_scale": max(size // UNSCALED_SIZE, 1),
        "use_additional_conditions": size == CONDITIONED_SIZE,
    }
    return {**whole, **{key: value for key, value in usual.items() if whole[key] is None}}


def fitting(configs: Configs) -> Fitting:
    """Yields a name, the transformer's size, and the size that its other sizes or the other components need."""
    transformer, latents = configs["transformer"], configs["vae"].get("latent_channels", 4)
    width = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    yield "transformer cross_attention_dim", transformer["cross_attention_dim"], width
    yield "transformer caption_channels", transformer["caption_channels"], configs["text_encoder"].get("hidden_size")
    yield "transformer in_channels", transformer["in_channels"], latents
    got = transformer["out_channels"] or transformer["in_channels"]
    yield "transformer out_channels", got, got if got in (latents, 2 * latents) else f"{latents} or {2 * latents}"


def finished(module: PixArtTransformer2DModel) -> PixArtTransformer2DModel:
    """The module with the positions that files do not store."""
    side = module.config.sample_size
    module.pos_embed.pos_embed = position_table(module, side, side).flatten(1).T[None]
    return module


KIND = TransformerKind(PixArtTransformer2DModel, completed, fitting, finished)
