"""unCLIP's prior as it is traced: a causal transformer over the text, its embedding, the timestep and the latents.

Ramesh et al. (2022), section 2.2; diffusers 0.42.1's PriorTransformer. It predicts the clean latents at a last token of
its own, from an embedding of unit variance.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import PriorTransformer
from torch import Tensor, nn

from latentrt.tensors import TensorSpec
from latentrt_export.networks.component import Part, generator, part
from latentrt_export.networks.hoist import attend

PRIOR = "prior"
# What hides a token, as in diffusers; two of them fit into fp16.
HIDDEN = -10000.0
# Tokens after those of the text: its embedding, the timestep, the latents, and the one for the prediction.
ADDED = 4


class Prior(nn.Module):
    """Latents and text embedding (batch, width), timestep (batch), states (batch, tokens, width), mask (batch, tokens).

    The mask is 1 for a token and 0 for padding. Takes over the modules of `prior`.
    """

    mask: Tensor

    def __init__(self, prior: PriorTransformer) -> None:
        super().__init__()
        self.sinusoid, self.time_embedding = prior.time_proj, prior.time_embedding
        self.latents, self.embedding = prior.proj_in, prior.embedding_proj
        self.states, self.positions = prior.encoder_hidden_states_proj, prior.positional_embedding
        self.last, self.blocks = prior.prd_embedding, prior.transformer_blocks
        self.norm, self.project = prior.norm_out, prior.proj_to_clip_embeddings
        self.register_buffer("mask", causal_mask(prior.positional_embedding.shape[1]).to(prior.dtype))

    def forward(self, latents: Tensor, timestep: Tensor, embedding: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """The prediction of the clean latents, (batch, width)."""
        time = self.time_embedding(self.sinusoid(timestep).to(latents.dtype))
        known = torch.stack([self.embedding(embedding), time, self.latents(latents)], 1)
        ahead = F.pad(torch.cat([self.states(states), known], 1), (0, 0, 0, 1))
        hidden = ahead + F.pad(self.last, (0, 0, ahead.shape[1] - 1, 0)) + self.positions
        hides = F.pad((1 - mask) * HIDDEN, (0, ADDED))[:, None, None, :] + self.mask
        for block in self.blocks:
            hidden = block_output(block, hidden, hides)
        prediction: Tensor = self.project(self.norm(hidden[:, -1]))
        return prediction


def block_output(block: Any, hidden: Tensor, mask: Tensor) -> Tensor:
    """The output of one block, (batch, tokens, width)."""
    x, attn = block.norm1(hidden), block.attn1
    x = attend(attn.to_q(x), attn.to_k(x), attn.to_v(x), attn.heads, mask)
    hidden = hidden + attn.to_out[0](x)
    made: Tensor = hidden + block.ff(block.norm3(hidden))
    return made


def causal_mask(tokens: int) -> Tensor:
    """What each token must not see, those after it: (1, tokens, tokens), on the CPU."""
    return torch.full((1, tokens, tokens), HIDDEN, device="cpu").triu(1)


def prior_part(prior: PriorTransformer) -> Part:
    """The prior's component, compared with the original."""
    width, tokens = prior.config.embedding_dim, prior.config.num_embeddings
    specs = (
        TensorSpec("latents", "float32", ("batch", width)),
        TensorSpec("timestep", "float32", ("batch",)),
        TensorSpec("text_embedding", "float32", ("batch", width)),
        TensorSpec("text_states", "float32", ("batch", tokens, width)),
        TensorSpec("text_mask", "float32", ("batch", tokens)),
    )
    runs = [prior_run(prior, specs, batch) for batch in (2, 1)]
    made = (TensorSpec("prediction", "float32", ("batch", width)),)
    return part(PRIOR, lambda: Prior(prior), specs, made, runs, role="prior")


def prior_run(prior: PriorTransformer, specs: tuple[TensorSpec, ...], batch: int) -> dict[str, Tensor]:
    """Random inputs, whose texts end in the middle, and what the original makes of them."""
    random = generator()
    sides = [[batch if axis == "batch" else int(axis) for axis in spec.shape] for spec in specs]
    feeds = {spec.name: torch.randn(shape, generator=random) for spec, shape in zip(specs, sides, strict=True)}
    feeds["timestep"] = torch.rand(batch, generator=random) * 999
    feeds["text_mask"] = (torch.arange(sides[-1][-1]) < sides[-1][-1] // 2).float().expand(batch, -1)
    with torch.no_grad():
        latents, timestep, embedding, states, mask = feeds.values()
        feeds["prediction"] = prior(latents, timestep, embedding, states, mask).predicted_image_embedding
    return feeds
