"""unCLIP's prior: a diffusion model from a prompt to the CLIP embedding of an image.

Ramesh et al. (2022), section 2.2; as diffusers 0.42.1's StableUnCLIPPipeline with a DDPMScheduler.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentrt.bundle.manifest import Manifest, Prior
from latentrt.conditioning.text import Call, mask_of
from latentrt.prompt import Chunk, Prompt
from latentrt.request.image_embedding import EmbeddingSpec
from latentrt.sampling.grids import Grid
from latentrt.sampling.noise.source import NoiseSource
from latentrt.sampling.samplers import SAMPLERS
from latentrt.tensors import Array

PRIOR, PRIOR_ENCODER = "prior", "prior_text_encoder"
DDPM = SAMPLERS["ddpm"]


@dataclass(frozen=True)
class TextRows:
    """What the prior knows of an empty text, and of the prompt: two rows each.

    embedding: (2, width). states: (2, tokens, width). mask: (2, tokens), 1 for a token and 0 for padding.
    """

    embedding: Array
    states: Array
    mask: Array

    @classmethod
    def none(cls) -> TextRows:
        """No rows, of a model without a prior."""
        return cls(*(np.zeros((0, 0), np.float32) for _ in range(3)))

    def feeds(self, rows: int) -> dict[str, Array]:
        """The inputs of a call: of both rows, or of the prompt alone."""
        arrays = {"text_embedding": self.embedding, "text_states": self.states, "text_mask": self.mask}
        return {name: array[-rows:] for name, array in arrays.items()}


def prior_grid(prior: Prior, steps: int) -> Grid:
    """The noise levels of the prior's steps."""
    return DDPM.grid(prior.schedule, steps, prior.schedule.spacing, "normal")


def text_rows(call: Call, manifest: Manifest, prompt: Prompt) -> TextRows:
    """Returns an empty text and the prompt, encoded. Of a long prompt it is the first chunk, without weights."""
    text, tokenizer = manifest.text, manifest.tokenizer
    assert text is not None and tokenizer is not None  # models with a prior have both
    start = () if tokenizer.bos is None else (tokenizer.bos,)
    padding = tokenizer.length - len(start) - 1
    empty = Chunk((*start, tokenizer.eos, *[tokenizer.pad] * padding), (1.0,) * tokenizer.length, padding)
    chunks = (empty, prompt.chunks[prompt.sub_prompts[0].texts[0]][0])
    pad = text.pads.get(PRIOR_ENCODER, tokenizer.pad)
    ids = np.array([chunk.padded(pad) for chunk in chunks], np.int64)
    encoded = call(PRIOR_ENCODER, input_ids=ids, clip_skip=np.array([1]))
    return TextRows(encoded["pooled"], encoded["context"], mask_of(chunks))


def prior_embedding(call: Call, prior: Prior, spec: EmbeddingSpec, texts: TextRows, source: NoiseSource) -> Array:
    """Returns the embedding that the prior makes of the prompt, (1, width) float32, of unit variance.

    source: noise of one picture, (1, width) at each draw.
    """
    grid, rows = prior_grid(prior, spec.prior_steps), 2 if spec.prior_guidance > 1 else 1
    times = dict(zip(grid.sigmas.tolist(), grid.timesteps.tolist(), strict=True))

    def denoise(x: Array, sigma: float) -> Array:
        feeds = {"latents": np.repeat(x, rows, axis=0), "timestep": np.full(rows, times[sigma]), **texts.feeds(rows)}
        found = call(PRIOR, **feeds)["prediction"].astype(np.float32)
        clean = found[:1] + np.float32(spec.prior_guidance) * (found[1:] - found[:1]) if rows > 1 else found
        return clean if prior.clip is None else clean.clip(-prior.clip, prior.clip)

    x = source.normal(0.0, 0.0)
    for latents, _ in DDPM.steps(denoise, x, grid, source.normal):
        x = latents
    return x
