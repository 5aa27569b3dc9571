"""CLIP's text transformers as they are traced."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from latentrt_export.networks.hoist import attend


def layer_output(layer: Any, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
    """Output of one layer, (batch, tokens, width), the shape of its input."""
    x, attn = layer.layer_norm1(hidden), layer.self_attn
    x = attend(attn.q_proj(x), attn.k_proj(x), attn.v_proj(x), attn.num_heads, mask)
    hidden = hidden + attn.out_proj(x)
    made: Tensor = hidden + layer.mlp(layer.layer_norm2(hidden))
    return made


def states_after(
    layers: nn.ModuleList,
    hidden: Tensor,
    output: Callable[[Any, Tensor], Tensor],
    norm: nn.Module,
    *,
    normed: bool = True,
) -> list[Tensor]:
    """The hidden state after every layer, (batch, tokens, width) each; that of the last is normed in any case.

    hidden: the first layer's input. output: what a layer makes of its input. norm: the final one. normed: whether it
    follows the other layers too.
    """
    states = list[Tensor]()
    *_, last = layers
    for layer in layers:
        hidden = output(layer, hidden)
        # Normed before one is picked, not after: engines fuse a sum with the norm that follows it, the last one's
        # too, so a clip_skip of 1 is to the bit what a graph without the choice computes.
        states.append(norm(hidden) if normed or layer is last else hidden)
    return states


def chosen(states: list[Tensor], clip_skip: Tensor) -> Tensor:
    """The state that is `clip_skip`, int64 (1), from the end."""
    return torch.stack(states, 1).index_select(1, len(states) - clip_skip).squeeze(1)


class TextEncoder(nn.Module):
    """CLIP's text transformer: input_ids int64 (batch, tokens), clip_skip int64 (1) -> context (batch, tokens, width).

    The causal mask is written out, as Radford et al. (2021) describe it, so that no engine has to know about causality.
    skipped: layers at the end that no `clip_skip` reaches. normed: whether the final layer norm follows the others.
    """

    mask: Tensor

    def __init__(self, model: CLIPTextModel, *, skipped: int = 0, normed: bool = True) -> None:
        super().__init__()
        self.skipped, self.normed = skipped, normed
        self.embeddings, self.layers = model.embeddings, model.encoder.layers
        self.final_layer_norm = model.final_layer_norm
        tokens, dtype = model.config.max_position_embeddings, model.dtype
        # Half of fp16's lowest number: scores are added to it, and the sum must not overflow in any precision.
        mask = torch.full((1, 1, tokens, tokens), torch.finfo(torch.float16).min / 2, dtype=dtype).triu(1)
        self.register_buffer("mask", mask)

    def forward(self, input_ids: Tensor, clip_skip: Tensor) -> Tensor:
        """The hidden state after the layer that is `clip_skip` from the end, after the final layer norm.

        clip_skip: 1, the last layer that is not skipped, to the number of these. It counts as AUTOMATIC1111's web UI
        and stable-diffusion.cpp do, one more than diffusers; the final layer norm, if any, follows whichever it is.
        """
        return self.chosen(self.states(input_ids), clip_skip)

    def chosen(self, states: list[Tensor], clip_skip: Tensor) -> Tensor:
        """The state that is `clip_skip` from the end of the layers that are not skipped."""
        return chosen(states[: len(states) - self.skipped], clip_skip)

    def states(self, input_ids: Tensor) -> list[Tensor]:
        """The hidden state after every layer; that of the last is normed in any case."""
        output = partial(layer_output, mask=self.mask)
        return states_after(self.layers, self.embeddings(input_ids), output, self.final_layer_norm, normed=self.normed)


class PooledTextEncoder(TextEncoder):
    """A text encoder that also says what the whole prompt is: pooled (batch, pooled), its projected end of text.

    end: the token at whose first place a prompt ends; None for the highest one of the vocabulary.
    """

    before: Tensor

    def __init__(self, model: CLIPTextModelWithProjection, *, skipped: int, normed: bool) -> None:
        super().__init__(model.text_model, skipped=skipped, normed=normed)
        self.projection = model.text_projection
        tokens = model.config.max_position_embeddings
        # Products with this count the ends before each place: a form of "the first" that every engine reads.
        self.register_buffer("before", torch.ones(tokens, tokens, dtype=model.dtype).triu(1))
        # 2 stands in configs of before the token was looked up, for whichever has the highest id.
        self.end = None if model.config.eos_token_id == 2 else model.config.eos_token_id

    def forward(self, input_ids: Tensor, clip_skip: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """The context, and the last layer's state at the first end of text, projected."""
        states = self.states(input_ids)
        last = states[-1]
        # By argmax: ONNX Runtime's symbolic shape inference knows no ReduceMax whose axes are an input.
        end = input_ids.gather(-1, input_ids.argmax(-1, keepdim=True)) if self.end is None else self.end
        ends = (input_ids == end).to(last.dtype)
        first = ends * (ends @ self.before == 0).to(last.dtype)
        return self.chosen(states, clip_skip), self.projection((first[:, None] @ last)[:, 0])
