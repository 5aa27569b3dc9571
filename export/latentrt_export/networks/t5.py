"""T5's encoder as it is traced: Raffel et al. (2020), section 2.1, and `T5Stack` of transformers 5.24.

It takes rows of any length without padding, so that there is no mask: a row is encoded by itself, or beside others as
long as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from latentrt_export.networks.component import Config
from latentrt_export.networks.hoist import attend
from latentrt_export.networks.kinds import Tensors, TextKind, in_float32

# Entries of transformers 5.24's T5Config.
DEFAULTS: Config = {
    **{"vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    **{"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128},
}
SHARED, TOKENS = "shared.weight", "embed_tokens.weight"


class T5Encoder(nn.Module):
    """input_ids int64 (batch, tokens) -> context (batch, tokens, width). Takes over the modules of `stack`.

    Positions are a bias of attention that depends on the distance of two tokens. It is the same for all distances from
    `furthest` on, so that a table of the nearer ones serves rows of any length.
    """

    biases: Tensor

    def __init__(self, stack: Any) -> None:
        super().__init__()
        self.embed, self.blocks, self.norm = stack.embed_tokens, stack.block, stack.final_layer_norm
        attention = stack.block[0].layer[0].SelfAttention
        self.furthest = attention.relative_attention_max_distance
        self.register_buffer("biases", biases_of(attention, self.furthest))

    def forward(self, input_ids: Tensor) -> Tensor:
        """The hidden states after the final norm."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        distances = (places[None] - places[:, None]).clamp(-self.furthest, self.furthest) + self.furthest
        bias = self.biases[distances].permute(2, 0, 1)
        hidden = self.embed(input_ids)
        for block in self.blocks:
            hidden = block_output(block, hidden, bias)
        normed: Tensor = self.norm(hidden)
        return normed


def block_output(block: Any, hidden: Tensor, bias: Tensor) -> Tensor:
    """The output of one block, (batch, tokens, width). Its attention is not scaled."""
    attention, feed_forward = block.layer
    x, attn = attention.layer_norm(hidden), attention.SelfAttention
    attended = attend(attn.q(x), attn.k(x), attn.v(x), attn.n_heads, bias, scale=1.0)
    made: Tensor = feed_forward(hidden + attn.o(attended))
    return made


def biases_of(attention: Any, furthest: int) -> Tensor:
    """The bias of each head for every distance from -furthest to furthest, (distances, heads)."""
    buckets = attention._relative_position_bucket(
        torch.arange(-furthest, furthest + 1),
        bidirectional=True,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=furthest,
    )
    biases: Tensor = attention.relative_attention_bias.weight.detach()[buckets]
    return biases


def completed(config: Config) -> dict[str, Any]:
    """A config with the entries that it leaves out, and its width and depth under CLIP's names."""
    whole = {**DEFAULTS, **config}
    return {**whole, "hidden_size": whole["d_model"], "num_hidden_layers": whole["num_layers"]}


def build(config: Config) -> Any:
    """The stack of the encoder's layers."""
    with torch.device("meta"):
        return T5EncoderModel(in_float32(T5Config, config)).encoder


def keys(tensors: Tensors) -> Tensors:
    """A folder's tensors under the names of the stack; its table of tokens has one of two names."""
    bare = {key.removeprefix("encoder."): tensor for key, tensor in tensors.items()}
    table = bare.pop(SHARED, None)
    return bare if table is None else {TOKENS: table, **bare}


KIND = TextKind(completed, build, keys)
