"""Stable Diffusion 3's transformer as modules: what depends on the prompt or the timestep alone leaves the loop.

Esser et al. (2024), "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis"; `SD3Transformer2DModel`
of diffusers 0.42.1, which the modules together must match. Positions are an input: the original stores a table for the
largest picture, of which it takes the centre.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

from latentrt_export.networks.component import Config
from latentrt_export.networks.flux2 import LAST_ROWS, bounded, scaled_from_one
from latentrt_export.networks.hoist import attend
from latentrt_export.networks.kinds import Configs, Fitting, TransformerKind
from latentrt_export.networks.patches import kept_rows
from latentrt_export.networks.rms_norm import rms_normed

# Entries of diffusers 0.42.1's SD3Transformer2DModel.
DEFAULTS: Config = {
    **{"sample_size": 128, "patch_size": 2, "in_channels": 16, "num_layers": 18, "attention_head_dim": 64},
    **{"num_attention_heads": 18, "joint_attention_dim": 4096, "caption_projection_dim": 1152},
    **{"pooled_projection_dim": 2048, "out_channels": 16, "pos_embed_max_size": 96, "dual_attention_layers": ()},
    "qk_norm": None,
}


class Modulations(nn.Module):
    """timestep float32 (n), pooled (n, pooled) -> (n, rows * width): shifts, scales and gates of all blocks and norms.

    Those of each block's image come before those of its text, the last two are the last norm's. 1 is added to every
    scale. The timestep's sinusoid stays in float32.
    """

    def __init__(self, transformer: SD3Transformer2DModel) -> None:
        super().__init__()
        self.embedding = transformer.time_text_embed
        norms = [norm for block in transformer.transformer_blocks for norm in (block.norm1, block.norm1_context)]
        self.projections = nn.ModuleList(scaled_from_one(norm.linear) for norm in (*norms, transformer.norm_out))

    def forward(self, timestep: Tensor, pooled: Tensor) -> Tensor:
        """The packed rows for each timestep and pooled text."""
        emb = self.embedding
        times = emb.timestep_embedder(emb.time_proj(timestep).to(pooled.dtype))
        embedded = F.silu(times + emb.text_embedder(pooled))
        return torch.cat([project(embedded) for project in self.projections], -1)


class HoistedSD3(nn.Module):
    """The transformer without the parts that hoisted graphs computed beforehand.

    Takes over the modules of `transformer`, which cannot be called by itself any more.
    """

    def __init__(self, transformer: SD3Transformer2DModel) -> None:
        super().__init__()
        self.patch, self.channels = transformer.config.patch_size, transformer.config.in_channels
        self.patches, self.blocks = transformer.pos_embed.proj, transformer.transformer_blocks
        self.norm, self.project = transformer.norm_out.norm, kept_rows(transformer)
        norms = [norm for block in self.blocks for norm in (block.norm1, block.norm1_context)]
        self.rows = [norm.linear.out_features // norm.linear.in_features for norm in norms]
        for norm in norms:
            norm.linear = None  # which `Modulations` has

    def forward(self, sample: Tensor, time_bias: Tensor, context_rows: Tensor, positions: Tensor) -> Tensor:
        """The prediction, (batch, channels, height, width), from latents of that shape.

        time_bias: (batch, rows * width). context_rows: (batch, tokens, width). positions: (width, rows, columns) of
        patches.
        """
        grid = self.patches(sample) + positions
        image, text, width = grid.flatten(2).transpose(1, 2), context_rows, int(grid.shape[1])
        sizes = [count * width for count in (*self.rows, LAST_ROWS)]
        *own, last = (torch.split(one, width, -1) for one in torch.split(time_bias[:, None], sizes, -1))
        for place, block in enumerate(self.blocks):
            image, text = block_output(block, image, text, *own[2 * place : 2 * place + 2])
        scale, shift = last
        made = self.project(self.norm(image) * scale + shift).transpose(1, 2)
        pixels = made.reshape(grid.shape[0], self.channels * self.patch**2, grid.shape[2], grid.shape[3])
        return F.pixel_shuffle(pixels, self.patch)


def block_output(
    block: Any, image: Tensor, text: Tensor, of_image: tuple[Tensor, ...], of_text: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """The image's and the text's rows after a block; the text as it was after the last, which nothing reads.

    of_image, of_text: the modulations of each, (batch, 1, width).
    """
    normed, tokens, last = block.norm1.norm(image), text.shape[1], block.context_pre_only
    scale, shift = of_text if last else (of_text[1], of_text[0])
    context = block.norm1_context.norm(text) * scale + shift
    attended = attended_by(block.attn, normed * of_image[1] + of_image[0], context)
    image = image + of_image[2] * block.attn.to_out[0](attended[:, tokens:])
    if block.attn2 is not None:
        alone = attended_by(block.attn2, normed * of_image[7] + of_image[6])
        image = image + of_image[8] * block.attn2.to_out[0](alone)
    image = image + of_image[5] * block.ff(block.norm2(image) * of_image[4] + of_image[3])
    if last:
        return image, text
    text = text + of_text[2] * block.attn.to_add_out(attended[:, :tokens])
    text = text + of_text[5] * block.ff_context(block.norm2_context(text) * of_text[4] + of_text[3])
    return image, bounded(text)


def attended_by(attn: Any, image: Tensor, text: Tensor | None = None) -> Tensor:
    """Attention of all rows to all, before its last layer: (batch, tokens, width), the text's rows first."""
    query, key = normed_by(attn, attn.norm_q, attn.to_q(image)), normed_by(attn, attn.norm_k, attn.to_k(image))
    value = attn.to_v(image)
    if text is not None:
        query = torch.cat([normed_by(attn, attn.norm_added_q, attn.add_q_proj(text)), query], 1)
        key = torch.cat([normed_by(attn, attn.norm_added_k, attn.add_k_proj(text)), key], 1)
        value = torch.cat([attn.add_v_proj(text), value], 1)
    return attend(query, key, value, attn.heads)


def normed_by(attn: Any, norm: Any, x: Tensor) -> Tensor:
    """Rows whose heads have a root mean square of 1 but for the norm's weights; as they are without a norm."""
    if norm is None:
        return x
    heads = x.reshape(x.shape[0], -1, attn.heads, attn.inner_dim // attn.heads)
    return rms_normed(heads, norm.weight, norm.eps).reshape(x.shape[0], -1, attn.inner_dim)


def position_table(transformer: SD3Transformer2DModel, height: int, width: int) -> Tensor:
    """The original's positions, (width, rows, columns) of patches, for latents of that size."""
    patch = transformer.config.patch_size
    table: Tensor = transformer.pos_embed.cropped_pos_embed(height, width)[0]
    return table.T.reshape(-1, height // patch, width // patch)


def completed(config: Config) -> dict[str, Any]:
    """A config with the entries that it leaves out."""
    return {**DEFAULTS, **config}


def fitting(configs: Configs) -> Fitting:
    """Yields a name, the transformer's size, and the size that its other sizes or the other components need."""
    transformer, latents = configs["transformer"], configs["vae"].get("latent_channels", 4)
    width = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    clips = [configs[name] for name in ("text_encoder", "text_encoder_2")]
    joint, side_by_side = transformer["joint_attention_dim"], sum(one.get("hidden_size", 0) for one in clips)
    wide = configs["text_encoder_3"].get("hidden_size") if "text_encoder_3" in configs else joint
    yield "transformer joint_attention_dim", joint, wide if side_by_side <= joint else f"at least {side_by_side}"
    pooled = sum(one.get("projection_dim", 0) for one in clips)
    yield "transformer pooled_projection_dim", transformer["pooled_projection_dim"], pooled
    yield "transformer caption_projection_dim", transformer["caption_projection_dim"], width
    yield "transformer in_channels", transformer["in_channels"], latents
    yield "transformer out_channels", transformer["out_channels"] or transformer["in_channels"], latents
    most = transformer["pos_embed_max_size"]
    yield "transformer pos_embed_max_size", most, most or "the patches per side of its table"


KIND = TransformerKind(SD3Transformer2DModel, completed, fitting)
