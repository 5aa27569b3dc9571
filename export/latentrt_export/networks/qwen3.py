"""Qwen3 as it is traced: Yang et al. (2025), and `Qwen3Model` of transformers 5.24, of which inner states are read.

Layers after the last state that is read are not there, nor is the final norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3Model
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

from latentrt_export.networks.component import Config
from latentrt_export.networks.hoist import attend
from latentrt_export.networks.kinds import Tensors, TextKind, in_float32
from latentrt_export.networks.rms_norm import rms_normed

# Added to the scores of what is not attended to; within fp16's range, and far below any score of normed vectors.
HIDDEN = -10000.0
# Entries of transformers 5.24's Qwen3Config.
DEFAULTS: Config = {
    **{"vocab_size": 151936, "hidden_size": 4096, "num_hidden_layers": 32, "use_sliding_window": False},
}


class Qwen3States(nn.Module):
    """input_ids int64, mask float32 (batch, tokens) -> context (batch, tokens, width * states).

    Takes over the modules of `model`. mask: 1 for a token, 0 for padding, which no place attends to. states: numbers of
    the layers whose outputs stand side by side. tokens: the most of a row.
    """

    cosines: Tensor
    sines: Tensor

    def __init__(self, model: Qwen3Model, states: Sequence[int], tokens: int) -> None:
        super().__init__()
        self.embed, self.states = model.embed_tokens, frozenset(states)
        self.layers = model.layers[: max(states)]
        cosines, sines = model.rotary_emb(torch.zeros(1), torch.arange(tokens)[None])
        half = cosines.shape[-1] // 2  # both halves are the same
        self.register_buffer("cosines", cosines[0, :, None, :half].clone())
        self.register_buffer("sines", sines[0, :, None, :half].clone())

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """The states, in the order of the layers."""
        tokens, hidden = input_ids.shape[1], self.embed(input_ids)
        places = torch.arange(tokens, device=input_ids.device)
        later = (places[None] > places[:, None]).to(hidden.dtype)
        bias = (later + (1 - mask.to(hidden.dtype))[:, None, None]) * HIDDEN
        turns = self.cosines[places], self.sines[places]
        kept = []
        for number, layer in enumerate(self.layers, start=1):
            hidden = layer_output(layer, hidden, turns, bias)
            kept += [hidden] if number in self.states else []
        return torch.cat(kept, -1)


def layer_output(layer: Any, hidden: Tensor, turns: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
    """The output of one layer, (batch, tokens, width). Several heads of queries share one of keys and values."""
    attn, x = layer.self_attn, normed(layer.input_layernorm, hidden)
    query, key, value = (heads(attn, project, x) for project in (attn.q_proj, attn.k_proj, attn.v_proj))
    query, key = turned(normed(attn.q_norm, query), turns), turned(normed(attn.k_norm, key), turns)
    times = attn.num_key_value_groups
    query, key, value = shared(query, 1), shared(key, times), shared(value, times)
    attended = attend(query, key, value, attn.config.num_attention_heads, bias)
    hidden = hidden + attn.o_proj(attended)
    made: Tensor = hidden + layer.mlp(normed(layer.post_attention_layernorm, hidden))
    return made


def normed(norm: Any, x: Tensor) -> Tensor:
    """The output of one of its norms."""
    return rms_normed(x, norm.weight, norm.variance_epsilon)


def heads(attn: Any, project: nn.Linear, x: Tensor) -> Tensor:
    """A projection by head, (batch, tokens, heads, channels)."""
    projected: Tensor = project(x)
    return projected.reshape(x.shape[0], -1, project.out_features // attn.head_dim, attn.head_dim)


def turned(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Channels of both halves, turned as pairs by each place's angles: Su et al. (2021), eq. 34.

    x: (batch, tokens, heads, channels). turns: cosines and sines, (tokens, 1, channels / 2) each.
    """
    cosines, sines = turns
    first, second = torch.split(x, int(x.shape[-1]) // 2, -1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], -1)


def shared(x: Tensor, times: int) -> Tensor:
    """Every head as often as queries share it, side by side: (batch, tokens, heads * times * channels)."""
    width = times * int(x.shape[2]) * int(x.shape[3])
    repeated = x if times == 1 else torch.stack([x] * times, 3)
    return repeated.reshape(x.shape[0], -1, width)


def completed(config: Config) -> dict[str, Any]:
    """A config with the entries that it leaves out."""
    return {**DEFAULTS, **config}


def build(config: Config) -> Qwen3Model:
    """The layers without the final norm, so that the last state is like all others."""
    whole = in_float32(Qwen3Config, config)
    with torch.device("meta"):
        module = Qwen3Model(whole)
    module.norm = nn.Identity()
    module.rotary_emb = Qwen3RotaryEmbedding(whole)  # with the frequencies, which files do not store
    return module


def keys(tensors: Tensors) -> Tensors:
    """A folder's tensors, those of the model with a head for tokens too, under the names of the layers' module."""
    return {key.removeprefix("model."): tensor for key, tensor in tensors.items()}


KIND = TextKind(completed, build, keys)
