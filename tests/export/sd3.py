"""Small Stable Diffusion 3 models on both sides: random weights from a fixed seed, two vocabularies, with T5 or not."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusion3Pipeline,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer, T5Tokenizer

from latentrt.request.request import Request
from latentrt.sampling.prediction import flow_scale
from latentrt_export.export import ExportOptions
from tests.export import pixart, tiny
from tests.export.pairs import Pair, exported
from tests.export.transformer_checks import psnr_of

PROMPT = "A photograph of two cats on a wooden table"
SIZE = {"width": 96, "height": 64}
CLIP_L = {
    **tiny.TEXT_ENCODER,
    "hidden_size": 16,
    "projection_dim": 16,
    "num_hidden_layers": 3,
    "initializer_factor": 3.0,
}
CLIP_G = {**CLIP_L, "hidden_size": 24, "projection_dim": 24, "hidden_act": "gelu"}
T5 = {"d_model": 48, "d_kv": 12}
# Stable Diffusion 3.5 medium's kind: the first blocks attend to the image twice, and queries and keys are normed.
TRANSFORMER = {
    **{"sample_size": 16, "num_layers": 3, "attention_head_dim": 8, "num_attention_heads": 4},
    **{"joint_attention_dim": 48, "caption_projection_dim": 32, "pooled_projection_dim": 40},
    **{"pos_embed_max_size": 24, "dual_attention_layers": (0, 1), "qk_norm": "rms_norm"},
}
# The changes of its other kinds.
KINDS: Mapping[str, Mapping[str, Any]] = {
    "Stable Diffusion 3.5 medium": {},
    "Stable Diffusion 3.5 large": {"dual_attention_layers": ()},
    "Stable Diffusion 3 medium": {"dual_attention_layers": (), "qk_norm": None},
}
VAE = {
    **{**tiny.VAE, "latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609},
    **{"use_quant_conv": False, "use_post_quant_conv": False, "force_upcast": True},
}
SCHEDULER = {"shift": 3.0}
# Steps and batch of the requests that are compared, each with and without guidance.
COUNTS, GUIDANCE = ((1, 1), (2, 3), (4, 3), (20, 1)), (1.0, 7.0)


def build_transformer(**changes: Any) -> SD3Transformer2DModel:
    """Returns a transformer with three blocks of width 32, but for changes; its norms have weights of their own."""
    made = tiny.seeded(lambda: SD3Transformer2DModel(**{**TRANSFORMER, **changes}))
    random = torch.Generator().manual_seed(1)
    for name, weight in made.named_parameters():
        if ".norm_" in name:
            weight.uniform_(0.5, 1.5, generator=random)
    return made


def build_clip(config: Mapping[str, Any]) -> CLIPTextModelWithProjection:
    """Returns a text encoder of CLIP's with a projection."""
    return tiny.seeded(lambda: CLIPTextModelWithProjection(CLIPTextConfig(**config)))


def reference(folder: Path, *, t5: bool = True, **changes: Any) -> StableDiffusion3Pipeline:
    """Returns diffusers' pipeline. folder: a new one, for files of tokenizers. changes: of the transformer's config."""
    tiny.save_tokenizer(folder)
    pipeline = StableDiffusion3Pipeline(
        transformer=build_transformer(**changes),
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        vae=tiny.seeded(lambda: AutoencoderKL(**VAE)),
        text_encoder=build_clip(CLIP_L),
        tokenizer=CLIPTokenizer.from_pretrained(folder),
        text_encoder_2=build_clip(CLIP_G),
        tokenizer_2=CLIPTokenizer.from_pretrained(folder, pad_token="!"),
        text_encoder_3=pixart.build_text_encoder(**T5) if t5 else None,
        tokenizer_3=T5Tokenizer(vocab=pixart.vocabulary(), extra_ids=4) if t5 else None,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def opened_pair(folder: Path, *, t5: bool = True, **options: Any) -> "SD3Pair":
    """Writes a model's folder and opens it on both sides. options: of the export, and "changes" of the transformer."""
    theirs = reference(folder / "tokenizer", t5=t5, **options.pop("changes", {}))
    theirs.save_pretrained(folder / "checkpoint")
    ours = exported(folder / "checkpoint", folder / "bundle", ExportOptions(**options))
    return SD3Pair(Pair("sd3", folder, ours, theirs, theirs.scheduler))


@dataclass(frozen=True)
class SD3Pair:
    """A model on both sides."""

    pair: Pair

    @property
    def ours(self):
        """The pipeline here."""
        return self.pair.ours

    def psnr(self, prompt: str = PROMPT, batch: int = 1, **options: Any) -> float:
        """The PSNR in dB of a request's pixels, not yet rounded."""
        both = replace(self.pair, theirs=self.pipeline(options))
        return both.psnr(prompt, batch=batch, theirs=calls(prompt, batch, **options), **{**SIZE, **options})

    def steps(self, prompt: str = PROMPT, batch: int = 1, **options: Any) -> list[float]:
        """The PSNR in dB of the latents after every step."""
        found: list[np.ndarray] = []
        request = Request(prompt, seed=5, batch=batch, syntax="plain", **{**SIZE, **options})
        made = list(self.ours.steps(request))

        def keep(pipeline, step, t, tensors):
            found.append(tensors["latents"].numpy().copy())
            return {}

        asked = {"num_inference_steps": request.steps, "output_type": "latent", "callback_on_step_end": keep}
        guided = {"guidance_scale": request.guidance}
        guided |= {"negative_prompt": [request.negative] * batch} if request.negative else {}
        self.pipeline(options)(**asked, **guided, **calls(prompt, batch, **options))
        levels = [*(step.sigma for step in made[1:]), 0.0]
        ours = [step.latents * (flow_scale(level) if level else 1.0) for step, level in zip(made, levels, strict=True)]
        return [psnr_of(one, theirs) for one, theirs in zip(ours, found, strict=True)]

    def pipeline(self, options: Mapping[str, Any]) -> DiffusionPipeline:
        """The pipeline of a request with these options."""
        if "init" not in options:
            return self.pair.theirs
        parts = self.pair.theirs.components
        if "mask" in options:
            made = StableDiffusion3InpaintPipeline(**{**parts, "vae": shifting(parts["vae"])})
        else:
            made = StableDiffusion3Img2ImgPipeline(**parts)
        made.set_progress_bar_config(disable=True)
        return made


def shifting(vae: AutoencoderKL) -> AutoencoderKL:
    """The autoencoder, shifting what it decodes: diffusers 0.42.1's inpainting pipeline leaves that out."""
    made = copy(vae)
    made.decode = lambda latents, **options: vae.decode(latents + vae.config.shift_factor, **options)
    return made


def calls(prompt: str, batch: int, **options: Any) -> dict[str, Any]:
    """The arguments of diffusers' pipeline that differ from a Stable Diffusion pipeline's."""
    seeds = [torch.Generator().manual_seed(5 + image) for image in range(batch)]
    size = {name: options.get(name, side) for name, side in SIZE.items()}
    names = {"image": "init", "mask_image": "mask", "strength": "strength"}
    images = {theirs: options[ours] for theirs, ours in names.items() if ours in options}
    if "image" in images:  # one generator draws from one posterior
        images["image"] = [images["image"]] * batch
    return {"prompt": [prompt] * batch, "generator": seeds, **size, **images}


def patch_mask() -> Image.Image:
    """Returns a mask of SIZE whose edges are those of latents."""
    mask = Image.new("L", tuple(SIZE.values()))
    mask.paste(255, (32, 16, 80, 64))
    return mask
