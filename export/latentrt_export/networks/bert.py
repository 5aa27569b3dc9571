"""LDM-BERT, the text transformer of the latent diffusion paper's text-to-image models, as it is traced.

Source: Rombach et al. (2022), section 3.3, and `LDMBertModel` of diffusers 0.42.1, which it must match.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertModel
from torch import Tensor, nn

from latentrt_export.networks.hoist import attend
from latentrt_export.networks.text_encoder import chosen, states_after


def layer_output(layer: Any, hidden: Tensor) -> Tensor:
    """Output of one layer, (batch, tokens, width), the shape of its input."""
    x, attn = layer.self_attn_layer_norm(hidden), layer.self_attn
    hidden = hidden + attn.out_proj(attend(attn.q_proj(x), attn.k_proj(x), attn.v_proj(x), attn.num_heads))
    made: Tensor = hidden + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden))))
    return made


class BertEncoder(nn.Module):
    """LDM-BERT: input_ids int64 (batch, tokens), clip_skip int64 (1) -> context (batch, tokens, width).

    Every token attends to every other, padding included, as in the original. Its width and that of its attention are
    unrelated.
    """

    def __init__(self, model: LDMBertModel) -> None:
        super().__init__()
        self.model = model.model

    def forward(self, input_ids: Tensor, clip_skip: Tensor) -> Tensor:
        """The hidden state after the layer that is `clip_skip` from the end, after the final layer norm."""
        hidden = self.model.embed_tokens(input_ids) + self.model.embed_positions.weight
        return chosen(states_after(self.model.layers, hidden, layer_output, self.model.layer_norm), clip_skip)


class LayoutKV(nn.Module):
    """Tokens of a layout, encoded and projected: int64 (batch, tokens) -> packed keys and values (batch, tokens, kv).

    project: the projections, `CrossKV`.
    """

    def __init__(self, model: LDMBertModel, project: nn.Module) -> None:
        super().__init__()
        self.encoder, self.project = BertEncoder(model), project

    def forward(self, layout_tokens: Tensor) -> Tensor:
        """The keys and values of all layers."""
        last = torch.ones(1, dtype=torch.int64)
        projected: Tensor = self.project(self.encoder(layout_tokens, last))
        return projected
