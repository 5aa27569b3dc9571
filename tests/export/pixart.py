"""Small PixArt models on both sides: random weights from a fixed seed, and a vocabulary of a few pieces."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
)
from PIL.Image import Image
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from latentrt.request.request import Request
from latentrt_export.export import ExportOptions
from tests.export import tiny
from tests.export.pairs import Pair, exported
from tests.export.transformer_checks import psnr_of

PROMPT = "A photograph of two cats on a wooden table"
SIZE = {"width": 96, "height": 64}
# Pieces of words, and the signs of which all other words are made.
PIECES = "▁two ▁cat ▁cats ▁table photo graph ▁wood en ▁a ▁on ▁fog ain ing er , ▁, . ; : ( ) [ ] 0 1 2 3 4 5 k".split()
TEXT_ENCODER = {
    **{"vocab_size": 128, "d_model": 24, "d_kv": 6, "d_ff": 48, "num_layers": 2, "num_heads": 4},
    "feed_forward_proj": "gated-gelu",
}
TRANSFORMER = {
    **{"num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 2, "cross_attention_dim": 32},
    **{"sample_size": 8, "caption_channels": 24, "norm_num_groups": 8, "interpolation_scale": 2},
    "use_additional_conditions": False,
}
# The changes of a model that takes the picture's size, whose width has room for three embeddings of it.
SIZED = {"attention_head_dim": 12, "cross_attention_dim": 48, "use_additional_conditions": True}
# Pipelines of both papers, with the changes of their transformers.
KINDS = {
    "PixArt-Sigma": (PixArtSigmaPipeline, {}),
    "PixArt-Alpha": (PixArtAlphaPipeline, {**SIZED, "sample_size": 128}),
}
# Steps and batch of the requests that are compared, each with and without guidance. At one step, diffusers takes
# PixArt-Alpha for a model that was distilled into one.
COUNTS, GUIDANCE = ((2, 1), (4, 3), (20, 1)), (1.0, 4.5)
VAE = {**tiny.VAE, "scaling_factor": 0.13025, "force_upcast": True}
SCHEDULER = partial(DPMSolverMultistepScheduler, beta_start=0.0001, beta_end=0.02, beta_schedule="linear")


def build_transformer(**changes: Any) -> PixArtTransformer2DModel:
    """Returns a transformer with two blocks of width 32, but for changes."""
    return tiny.seeded(lambda: PixArtTransformer2DModel(**{**TRANSFORMER, **changes}))


def build_text_encoder(**changes: Any) -> T5EncoderModel:
    """Returns T5's encoder with two layers, whose biases of distance are of its scores' size."""
    model = tiny.seeded(lambda: T5EncoderModel(T5Config(**{**TEXT_ENCODER, **changes})))
    table = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    table.normal_(generator=torch.Generator().manual_seed(1))
    return model


def vocabulary() -> list[tuple[str, float]]:
    """Pieces and their scores, special ones first, as in T5's."""
    signs = dict.fromkeys(["▁", *PIECES, *"abcdefghijklmnopqrstuvwxyz"])
    scores = [(sign, -3 - place / 50 - (len(sign) == 1)) for place, sign in enumerate(signs)]
    return [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *scores]


def reference(kind: type[DiffusionPipeline] = PixArtSigmaPipeline, **changes: Any) -> DiffusionPipeline:
    """Returns diffusers' pipeline. changes: of the transformer's config."""
    pipeline = kind(
        tokenizer=T5Tokenizer(vocab=vocabulary(), extra_ids=4),
        text_encoder=build_text_encoder(),
        vae=tiny.seeded(lambda: AutoencoderKL(**VAE)),
        transformer=build_transformer(**changes),
        scheduler=SCHEDULER(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def opened_pair(folder: Path, kind: type[DiffusionPipeline] = PixArtSigmaPipeline, **options: Any) -> "PixArtPair":
    """Writes a model's folder and opens it on both sides. options: of the export, and "changes" of the transformer."""
    theirs = reference(kind, **options.pop("changes", {}))
    theirs.save_pretrained(folder / "checkpoint")
    ours = exported(folder / "checkpoint", folder / "bundle", ExportOptions(**options))
    return PixArtPair(Pair(kind.__name__, folder, ours, theirs, theirs.scheduler))


@dataclass(frozen=True)
class PixArtPair:
    """A model on both sides."""

    pair: Pair

    @property
    def ours(self):
        """The pipeline here."""
        return self.pair.ours

    def psnr(self, prompt: str = PROMPT, batch: int = 1, **options: Any) -> float:
        """The PSNR in dB of a request's pixels, not yet rounded."""
        return self.pair.psnr(prompt, batch=batch, theirs=calls(prompt, batch, **options), **{**SIZE, **options})

    def steps(self, prompt: str = PROMPT, **options: Any) -> list[float]:
        """The PSNR in dB of the latents after every step, which both sides keep at unit variance."""
        found: list[torch.Tensor] = []
        request = Request(prompt, seed=5, **{**SIZE, **options})
        made = list(self.ours.steps(request))
        self.pair.theirs.scheduler = self.pair.scheduler
        asked = {"num_inference_steps": request.steps, "output_type": "latent", **calls(prompt, 1, **options)}
        guided = {"guidance_scale": request.guidance, "negative_prompt": request.negative}
        self.pair.theirs(**asked, **guided, callback=lambda step, t, latents: found.append(latents.clone()))
        return [psnr_of(step.latents, theirs.numpy()) for step, theirs in zip(made, found, strict=True)]


def calls(prompt: str, batch: int, **options: Any) -> Mapping[str, Any]:
    """The arguments of diffusers' pipeline that differ from a Stable Diffusion pipeline's."""
    seeds = [torch.Generator().manual_seed(5 + image) for image in range(batch)]
    size = {name: options.get(name, side) for name, side in SIZE.items()}
    fixed = {"use_resolution_binning": False, "clean_caption": False}
    return {"prompt": [prompt] * batch, "generator": seeds, **size, **fixed}


def from_image(pipeline: DiffusionPipeline, image: Image, request: Request) -> torch.Tensor:
    """Returns the latents of an image, noised and denoised for the last share of the steps, without guidance."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    embeds, mask, _, _ = pipeline.encode_prompt(request.prompt, do_classifier_free_guidance=False)
    scheduler, skipped = SCHEDULER(), round(request.steps * (1 - request.strength))
    scheduler.set_timesteps(request.steps)
    scheduler.set_begin_index(skipped)
    added = {"resolution": None, "aspect_ratio": None}
    with torch.no_grad():
        clean = pipeline.vae.encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor
        drawn = torch.randn(clean.shape, generator=torch.Generator().manual_seed(request.seed))
        latents = scheduler.add_noise(clean, drawn, scheduler.timesteps[skipped : skipped + 1])
        for t in scheduler.timesteps[skipped:]:
            options = {"encoder_attention_mask": mask, "added_cond_kwargs": added}
            found = pipeline.transformer(latents, embeds, t.expand(1), **options).sample
            latents = scheduler.step(found.chunk(2, 1)[0], t, latents).prev_sample
    return latents
