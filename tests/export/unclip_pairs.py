"""A small unCLIP model on both sides: exported and opened here, and diffusers' own pipeline of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, PriorTransformer, StableUnCLIPImg2ImgPipeline, StableUnCLIPPipeline
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from PIL import Image
from torch import nn
from transformers import CLIPImageProcessor, CLIPTextConfig, CLIPTextModelWithProjection

from tests.export.image_prompts import ENCODER, saved_encoder
from tests.export.ldm_pairs import SIZE, Case, LdmPair, opened
from tests.export.tiny import seeded
from tests.export.tiny_families import EOS, SD2, SD2_TEXT, Tiny, V, reference

WIDTH, SIDE = ENCODER["projection_dim"], ENCODER["image_size"]
PROMPT = {"prompt": "a red (apple!", "syntax": "plain"}
# Without the padding of Stable Diffusion 2's tokenizer, on which that of the prior disagrees: docs/tasks.md.
PRIOR_PROMPT = {**PROMPT, "prompt": "a red (apple"}
# As published, but for the widths.
NOISING = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000}
EMBEDDED = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2 * WIDTH}
CONFIGS = {**SD2, "unet": {**SD2["unet"], **EMBEDDED}}
PRIOR = {
    **{"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "embedding_dim": WIDTH},
    "num_embeddings": SD2_TEXT["max_position_embeddings"],
}
PRIOR_TEXT = {**SD2_TEXT, "hidden_size": WIDTH, "projection_dim": WIDTH}


@dataclass(frozen=True)
class UnclipCase(Case):
    """One request, with the level of the noise in the embedding."""

    noise_level: int = 0


CASES = (
    UnclipCase(1, 10.0),
    UnclipCase(2, 10.0, noise_level=500),
    UnclipCase(2, 1.0, noise_level=999),
    UnclipCase(2, 10.0, 1.0, (3, 4, 5), 500),
    UnclipCase(2, 1.0, seeds=(0, 1, 2)),
    UnclipCase(20, 10.0, noise_level=500),
    UnclipCase(20, 10.0, 1.0, (0, 1, 2)),
)


@dataclass(frozen=True)
class UnclipPair(LdmPair):
    """A model on both sides."""

    def psnr(self, case: Case, **request: Any) -> float:
        """The PSNR in dB of a case's pixels, not yet rounded."""
        return super().psnr(case, **{"guidance": case.guidance, "noise_level": case.noise_level, **request})


def noise_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """An image of random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def normalizer() -> StableUnCLIPImageNormalizer:
    """A normalizer whose mean and deviation are neither 0 nor 1."""
    made, random = StableUnCLIPImageNormalizer(WIDTH).requires_grad_(False), torch.Generator().manual_seed(0)
    made.mean.copy_(torch.randn(1, WIDTH, generator=random))
    made.std.copy_(torch.rand(1, WIDTH, generator=random) + 0.5)
    return made


def image_pipeline(folder: Path) -> StableUnCLIPImg2ImgPipeline:
    """Diffusers' pipeline of image variations; what it is read from is written into `folder`."""
    size = {"shortest_edge": SIDE}
    options = {
        "image_encoder": saved_encoder(folder / "image_encoder"),
        "image_normalizer": normalizer(),
        "image_noising_scheduler": DDPMScheduler(**NOISING),
        "feature_extractor": CLIPImageProcessor(size=size, crop_size={"height": SIDE, "width": SIDE}),
    }
    return reference(Tiny(StableUnCLIPImg2ImgPipeline, CONFIGS, V, {"tokenizer": "!"}, None, options), folder)


def drawn(theirs: StableUnCLIPImg2ImgPipeline, case: Case, image: Image.Image, prompt: str = PROMPT["prompt"]) -> Any:
    """Diffusers' pictures of a case: a list of images and generators, so that each has noise of its own."""
    count = len(case.seeds)
    return theirs(
        image=[image] * count,
        prompt=[prompt] * count,
        num_inference_steps=case.steps,
        guidance_scale=case.guidance,
        eta=case.eta,
        noise_level=case.noise_level,
        generator=[torch.Generator().manual_seed(seed) for seed in case.seeds],
        output_type="np",
        **SIZE,
    ).images


def variations(folder: Path, **options: Any) -> UnclipPair:
    """A folder of StableUnCLIPImg2ImgPipeline, and an image that is no square."""
    theirs, own = image_pipeline(folder / "parts"), noise_image(50, 33)
    theirs.save_pretrained(folder / "checkpoint")

    def pictures(case: Case, image: Image.Image = own, **more: Any) -> Any:
        return drawn(theirs, case, image, **more)

    request = {**PROMPT, **SIZE, "image": own}
    return UnclipPair(opened(folder / "checkpoint", folder / "bundle", **options), pictures, request)


def prior_model() -> PriorTransformer:
    """A prior whose parameters are all random, those too that training starts at zero."""
    model, random = seeded(lambda: PriorTransformer(**PRIOR)), torch.Generator().manual_seed(0)
    for one in (model.positional_embedding, model.prd_embedding, model.clip_mean):
        nn.init.normal_(one, generator=random)
    nn.init.uniform_(model.clip_std, 0.5, 1.5, generator=random)
    return model.half().float()


def text_pipeline(folder: Path) -> StableUnCLIPPipeline:
    """Diffusers' pipeline with a prior; its tokenizers are written into `folder`."""
    sampled = {"prediction_type": "sample", "clip_sample": True, "clip_sample_range": 5.0}
    options = {
        "prior": prior_model(),
        "prior_text_encoder": seeded(lambda: CLIPTextModelWithProjection(CLIPTextConfig(**PRIOR_TEXT))).half().float(),
        "prior_scheduler": DDPMScheduler(**NOISING, **sampled, variance_type="fixed_small_log"),
        "image_normalizer": normalizer(),
        "image_noising_scheduler": DDPMScheduler(**NOISING),
    }
    pads = {"tokenizer": "!", "prior_tokenizer": EOS}
    return reference(Tiny(StableUnCLIPPipeline, CONFIGS, V, pads, None, options), folder)


def by_a_prior(folder: Path, **options: Any) -> UnclipPair:
    """A folder of StableUnCLIPPipeline."""
    theirs = text_pipeline(folder / "parts")
    theirs.save_pretrained(folder / "checkpoint")

    def pictures(case: Case, prompt: str = PRIOR_PROMPT["prompt"], **more: Any) -> Any:
        return theirs(
            [prompt] * len(case.seeds),
            num_inference_steps=case.steps,
            guidance_scale=case.guidance,
            eta=case.eta,
            noise_level=case.noise_level,
            generator=[torch.Generator().manual_seed(seed) for seed in case.seeds],
            output_type="np",
            **SIZE,
            **more,
        ).images

    return UnclipPair(opened(folder / "checkpoint", folder / "bundle", **options), pictures, {**PRIOR_PROMPT, **SIZE})


KINDS: dict[str, tuple[Callable[..., UnclipPair], tuple[UnclipCase, ...]]] = {
    "image variations": (variations, CASES),
    "text by a prior": (by_a_prior, CASES),
}
