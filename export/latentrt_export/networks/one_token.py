"""Cross-attention to a context of one token, such as the embedding of a class: a constant per layer."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from latentrt_export.networks.hoist import cross_attentions, stacked


class ClassBias(nn.Module):
    """The outputs of all cross-attentions to a context of one token, the embedding of a class.

    The softmax over one key is 1: the output of attention is the projected value, for any query.
    class_label int64 (batch) -> (batch, sum of widths).
    """

    def __init__(self, unet: UNet2DConditionModel, embedding: nn.Embedding) -> None:
        super().__init__()
        attentions = [*cross_attentions(unet)]
        self.embedding, self.values = embedding, stacked([attn.to_v for attn in attentions])
        self.widths = [attn.to_v.out_features for attn in attentions]
        self.outputs = nn.ModuleList(attn.to_out[0] for attn in attentions)

    def forward(self, class_label: Tensor) -> Tensor:
        """The packed outputs of each class."""
        values = self.values(self.embedding(class_label)).split(self.widths, -1)
        return torch.cat([output(value) for output, value in zip(self.outputs, values, strict=True)], -1)
