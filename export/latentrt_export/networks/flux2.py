"""FLUX.2's transformer as modules: what depends on the prompt or the timestep alone leaves the loop.

Black Forest Labs (2025), FLUX.2; `Flux2Transformer2DModel` of diffusers 0.42.1, which the modules together must match.
The rotations of rotary position embeddings are inputs: the original computes them in float64 from every place.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import Flux2Transformer2DModel
from torch import Tensor, nn

from latentrt_export.networks.component import Config
from latentrt_export.networks.hoist import attend
from latentrt_export.networks.kinds import Configs, Fitting, TransformerKind
from latentrt_export.networks.rms_norm import rms_normed

# Rows of the modulations, in order: of the image's and of the text's stream in double blocks, of single blocks, of the
# last layer. Each is shift, scale and gate of attention, then of the feed-forward layer where that is apart, and of
# attention to itself in SD3's blocks that have it; of the last layer scale and shift.
DOUBLE_ROWS, SINGLE_ROWS, LAST_ROWS = 6, 3, 2
SCALES, LAST_SCALES = (1, 4, 7), (0,)
LARGEST_HALF = 65504.0
# Entries of diffusers 0.42.1's Flux2Transformer2DModel, and the side in latents of its pipelines' pictures.
DEFAULTS: Config = {
    **{"patch_size": 1, "in_channels": 128, "out_channels": None, "num_layers": 8, "num_single_layers": 48},
    **{"attention_head_dim": 128, "num_attention_heads": 48, "joint_attention_dim": 15360, "mlp_ratio": 3.0},
    **{"axes_dims_rope": (32, 32, 32, 32), "rope_theta": 2000, "guidance_embeds": True, "sample_size": 64},
}


class Modulations(nn.Module):
    """timestep float32 (n), up to 1000 -> (n, 17 * width): shifts, scales and gates of all blocks, and the last two.

    All blocks of a kind share theirs. 1 is added to every scale. The timestep's sinusoid stays in float32.
    """

    def __init__(self, transformer: Flux2Transformer2DModel) -> None:
        super().__init__()
        self.embedding = transformer.time_guidance_embed
        made = (
            transformer.double_stream_modulation_img.linear,
            transformer.double_stream_modulation_txt.linear,
            transformer.single_stream_modulation.linear,
            transformer.norm_out.linear,
        )
        self.projections = nn.ModuleList(scaled_from_one(linear) for linear in made)

    def forward(self, timestep: Tensor) -> Tensor:
        """The packed rows for each timestep."""
        emb, dtype = self.embedding, self.projections[0].weight.dtype
        embedded = F.silu(emb.timestep_embedder(emb.time_proj(timestep).to(dtype)))
        return torch.cat([project(embedded) for project in self.projections], -1)


def scaled_from_one(linear: nn.Linear) -> nn.Linear:
    """The layer that makes modulations, with 1 added to its scales; it shares the weight, and always has a bias."""
    rows = linear.out_features // linear.in_features
    places = LAST_SCALES if rows == LAST_ROWS else [place for place in SCALES if place < rows]
    bias = torch.zeros(rows, linear.in_features) if linear.bias is None else linear.bias.detach().clone()
    bias = bias.reshape(rows, -1)
    bias[places, :] += 1
    made = nn.Linear(linear.in_features, linear.out_features, device="meta")
    made.weight = nn.Parameter(linear.weight.detach(), requires_grad=False)
    made.bias = nn.Parameter(bias.flatten(), requires_grad=False)
    return made


class HoistedFlux2(nn.Module):
    """The transformer without the parts that hoisted graphs computed beforehand.

    Takes over the modules of `transformer`, which cannot be called by itself any more.
    """

    def __init__(self, transformer: Flux2Transformer2DModel) -> None:
        super().__init__()
        self.embed, self.project = transformer.x_embedder, transformer.proj_out
        self.doubles, self.singles = transformer.transformer_blocks, transformer.single_transformer_blocks
        self.norm = transformer.norm_out.norm

    def forward(
        self, sample: Tensor, time_bias: Tensor, context_rows: Tensor, rotary_text: Tensor, rotary_image: Tensor
    ) -> Tensor:
        """The prediction, (batch, channels, height, width), from latents of that shape.

        time_bias: (batch, 17 * width). context_rows: (batch, tokens, width). rotary_text, rotary_image: cosines and
        sines of the angles of every pair of a head's channels, (2, tokens, pairs) and (2, height, width, pairs).
        """
        image, text = self.embed(sample.flatten(2).transpose(1, 2)), context_rows
        rows = torch.split(time_bias[:, None], int(self.embed.out_features), -1)
        turns = torch.cat([rotary_text, rotary_image.flatten(1, 2)], 1)[:, :, None]
        for block in self.doubles:
            text, image = double_output(block, text, image, rows, turns)
        hidden, tokens = torch.cat([text, image], 1), text.shape[1]
        for block in self.singles:
            hidden = single_output(block, hidden, rows[2 * DOUBLE_ROWS :], turns)
        scale, shift = rows[-LAST_ROWS:]
        made: Tensor = self.project(self.norm(hidden[:, tokens:]) * scale + shift)
        return made.transpose(1, 2).reshape(sample.shape[0], -1, sample.shape[2], sample.shape[3])


def double_output(
    block: Any, text: Tensor, image: Tensor, rows: tuple[Tensor, ...], turns: Tensor
) -> tuple[Tensor, Tensor]:
    """The text's and the image's rows after a block that has weights of its own for each.

    rows: the modulations of both. turns: as of `rotated`, the text's first.
    """
    attn, tokens = block.attn, text.shape[1]
    of_image, of_text = rows[:DOUBLE_ROWS], rows[DOUBLE_ROWS : 2 * DOUBLE_ROWS]
    x, y = block.norm1(image) * of_image[1] + of_image[0], block.norm1_context(text) * of_text[1] + of_text[0]
    query = torch.cat([heads(attn, attn.norm_added_q, attn.add_q_proj(y)), heads(attn, attn.norm_q, attn.to_q(x))], 1)
    key = torch.cat([heads(attn, attn.norm_added_k, attn.add_k_proj(y)), heads(attn, attn.norm_k, attn.to_k(x))], 1)
    value = torch.cat([attn.add_v_proj(y), attn.to_v(x)], 1)
    attended = attend(rotated(query, turns), rotated(key, turns), value, attn.heads)
    image = image + of_image[2] * attn.to_out[0](attended[:, tokens:])
    text = text + of_text[2] * attn.to_add_out(attended[:, :tokens])
    image = image + of_image[5] * block.ff(block.norm2(image) * of_image[4] + of_image[3])
    text = text + of_text[5] * block.ff_context(block.norm2_context(text) * of_text[4] + of_text[3])
    return bounded(text), image


def single_output(block: Any, hidden: Tensor, rows: tuple[Tensor, ...], turns: Tensor) -> Tensor:
    """All rows after a block that takes text and image alike, its attention beside its feed-forward layer."""
    attn = block.attn
    shift, scale, gate = rows[:SINGLE_ROWS]
    widths = [attn.inner_dim] * 3 + [attn.mlp_hidden_dim * attn.mlp_mult_factor]
    projected = attn.to_qkv_mlp_proj(block.norm(hidden) * scale + shift)
    query, key, value, forward = torch.split(projected, widths, -1)
    query, key = heads(attn, attn.norm_q, query), heads(attn, attn.norm_k, key)
    attended = attend(rotated(query, turns), rotated(key, turns), value, attn.heads)
    return bounded(hidden + gate * attn.to_out(torch.cat([attended, attn.mlp_act_fn(forward)], -1)))


def heads(attn: Any, norm: nn.RMSNorm, x: Tensor) -> Tensor:
    """Rows by head, (batch, tokens, heads, channels), each of a root mean square of 1 but for the norm's weights."""
    return rms_normed(x.reshape(x.shape[0], -1, attn.heads, attn.head_dim), norm.weight, norm.eps or 0.0)


def rotated(x: Tensor, turns: Tensor) -> Tensor:
    """Neighbouring channels, turned as pairs by each place's angles: Su et al. (2021), eq. 34.

    x: (batch, tokens, heads, channels). turns: cosines and sines, (2, tokens, 1, channels / 2). Returns the channels of
    all heads side by side, (batch, tokens, heads * channels).
    """
    batch, count, channels = x.shape[0], int(x.shape[2]), int(x.shape[3])
    pairs = x.reshape(batch, -1, count, channels // 2, 2)
    first, second = pairs[..., 0], pairs[..., 1]
    turned = torch.stack([first * turns[0] - second * turns[1], second * turns[0] + first * turns[1]], -1)
    return turned.reshape(batch, -1, count * channels)


def bounded(x: Tensor) -> Tensor:
    """Values within fp16's range, as diffusers clips them where it computes in fp16."""
    return x.clip(-LARGEST_HALF, LARGEST_HALF) if x.dtype == torch.float16 else x


def completed(config: Config) -> dict[str, Any]:
    """A config with the entries that it leaves out."""
    return {**DEFAULTS, **config}


def fitting(configs: Configs) -> Fitting:
    """Yields a name, the transformer's size, and the size that its other sizes or the other components need."""
    transformer, vae, text = (configs[name] for name in ("transformer", "vae", "text_encoder"))
    latents = vae.get("latent_channels", 32) * math.prod(vae.get("patch_size") or (2, 2))
    if "states_width" not in text:
        yield "text_encoder num_hidden_layers", text.get("num_hidden_layers"), "more than the last layer that is read"
    yield "transformer in_channels", transformer["in_channels"], latents
    yield "transformer out_channels", transformer["out_channels"] or latents, latents
    yield "transformer joint_attention_dim", transformer["joint_attention_dim"], text.get("states_width")
    channels = transformer["attention_head_dim"]
    yield "transformer axes_dims_rope", sum(transformer["axes_dims_rope"]), channels


KIND = TransformerKind(Flux2Transformer2DModel, completed, fitting, halves=True)
