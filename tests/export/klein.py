"""Small FLUX.2 klein models on both sides: random weights from a fixed seed, a vocabulary of bytes and a few words."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinInpaintPipeline,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from latentrt.request.request import Request
from latentrt.sampling.prediction import flow_scale
from latentrt_export.checkpoint import recognition
from latentrt_export.export import ExportOptions
from tests.export import tiny
from tests.export.pairs import Pair, exported
from tests.export.transformer_checks import psnr_of

PROMPT = "A photograph of two cats,\non a wooden table"
SIZE = {"width": 96, "height": 64}
# The states that the small encoder is read at, in place of those of the published ones, which have 36 layers.
STATES = (1, 2, 3)
TEXT_ENCODER = {
    **{"vocab_size": 320, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 1024},
    "initializer_range": 0.5,  # so that a text makes a difference
}
TRANSFORMER = {
    **{"in_channels": 16, "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2},
    **{"joint_attention_dim": 48, "timestep_guidance_channels": 32, "axes_dims_rope": (4, 4, 4, 4)},
    "guidance_embeds": False,
}
VAE = {**tiny.VAE, "latent_channels": 4}
# Steps and batch of the requests that are compared.
COUNTS = ((1, 1), (4, 3), (20, 1))
SCHEDULER = {"shift": 3.0, "use_dynamic_shifting": True}
WORDS = ["Ġcat", "Ġcats", "photo", "graph", "Ġof", "Ġtwo", "user", "assistant", "Ġwooden", "Ġtable"]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def build_transformer(**changes: Any) -> Flux2Transformer2DModel:
    """Returns a transformer with one double and two single blocks of width 32, but for changes."""
    return tiny.seeded(lambda: Flux2Transformer2DModel(**{**TRANSFORMER, **changes}))


def build_text_encoder(**changes: Any) -> Qwen3ForCausalLM:
    """Returns Qwen3 with four layers, whose queries share keys and values in pairs."""
    return tiny.seeded(lambda: Qwen3ForCausalLM(Qwen3Config(**{**TEXT_ENCODER, **changes})))


def build_vae() -> AutoencoderKLFlux2:
    """Returns a VAE whose patches have 16 channels, with statistics that are not those of its own latents."""
    vae = tiny.seeded(lambda: AutoencoderKLFlux2(**VAE))
    random = torch.Generator().manual_seed(1)
    vae.bn.running_mean.normal_(generator=random)
    vae.bn.running_var.uniform_(0.5, 2.0, generator=random)
    return vae


def build_tokenizer() -> Qwen2Tokenizer:
    """Returns Qwen's tokenizer with a vocabulary of bytes and of WORDS, joined from their left."""
    vocab = {sign: place for place, sign in enumerate(sorted(ByteLevel.alphabet()))}
    merges = []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            merges.append((word[: end - 1], word[end - 1]))
            vocab.setdefault(word[:end], len(vocab))
    tokens = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "additional_special_tokens": SPECIALS}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[*dict.fromkeys(merges)], **tokens)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def reference(*, distilled: bool = True, changes: Mapping[str, Any] | None = None, **text: Any) -> Flux2KleinPipeline:
    """Returns diffusers' pipeline. changes: of the transformer's config. text: changes of the text encoder's."""
    pipeline = Flux2KleinPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=build_text_encoder(**text),
        vae=build_vae(),
        transformer=build_transformer(**(changes or {})),
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        is_distilled=distilled,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextmanager
def small_states(states: tuple[int, ...] = STATES) -> Iterator[None]:
    """Makes the families of FLUX.2 read these states."""
    families = tuple(
        replace(one, encoders={name: replace(encoder, states=states) for name, encoder in one.encoders.items()})
        if one.size_shift == "flux2"
        else one
        for one in recognition.FAMILIES
    )
    with mock.patch.object(recognition, "FAMILIES", families):
        yield


def opened_pair(folder: Path, *, states: tuple[int, ...] = STATES, **options: Any) -> "KleinPair":
    """Writes a model's folder and opens it on both sides. options: of the export and of `reference`."""
    made = {name: options.pop(name) for name in ("distilled", "changes", "num_hidden_layers") if name in options}
    theirs = reference(**made)
    theirs.save_pretrained(folder / "checkpoint")
    with small_states(states):
        ours = exported(folder / "checkpoint", folder / "bundle", ExportOptions(**options))
    return KleinPair(Pair("klein", folder, ours, theirs, theirs.scheduler), states)


@dataclass(frozen=True)
class KleinPair:
    """A model on both sides. states: those that are read."""

    pair: Pair
    states: tuple[int, ...] = STATES

    @property
    def ours(self):
        """The pipeline here."""
        return self.pair.ours

    def psnr(self, prompt: str = PROMPT, batch: int = 1, **options: Any) -> float:
        """The PSNR in dB of a request's pixels, not yet rounded."""
        theirs = self.calls(prompt, batch, **options)
        both = replace(self.pair, theirs=self.pipeline(options))
        return both.psnr(prompt, batch=batch, theirs=theirs, **{**SIZE, "guidance": 1.0, **options})

    def pipeline(self, options: Mapping[str, Any]) -> Flux2KleinPipeline | Flux2KleinInpaintPipeline:
        """The pipeline of a request with these options."""
        if "init" not in options:
            return self.pair.theirs
        made = Flux2KleinInpaintPipeline(**self.pair.theirs.components)
        made.set_progress_bar_config(disable=True)
        return made

    def steps(self, prompt: str = PROMPT, batch: int = 1, **options: Any) -> list[float]:
        """The PSNR in dB of the latents after every step."""
        found: list[np.ndarray] = []
        request = Request(prompt, seed=5, batch=batch, syntax="plain", **{**SIZE, **options})
        made = list(self.ours.steps(request))

        def keep(pipeline, step, t, tensors):
            found.append(tensors["latents"].numpy().copy())
            return {}

        asked = {"num_inference_steps": request.steps, "output_type": "latent", "callback_on_step_end": keep}
        theirs = self.pipeline(options)
        theirs(**asked, guidance_scale=request.guidance or 1.0, **self.calls(prompt, batch, **options))
        levels = [*(step.sigma for step in made[1:]), 0.0]
        ours = [step.latents * (flow_scale(level) if level else 1.0) for step, level in zip(made, levels, strict=True)]
        rows = [one.reshape(*one.shape[:2], -1).transpose(0, 2, 1) for one in ours]
        return [psnr_of(one, theirs) for one, theirs in zip(rows, found, strict=True)]

    def calls(self, prompt: str, batch: int, **options: Any) -> dict[str, Any]:
        """The arguments of diffusers' pipeline that differ from a Stable Diffusion pipeline's."""
        seeds = [torch.Generator().manual_seed(5 + image) for image in range(batch)]
        size = {name: options.get(name, side) for name, side in SIZE.items()}
        images = {"image": [*options["references"]]} if options.get("references") else {}
        if "init" in options:
            names = {"image": "init", "mask_image": "mask", "strength": "strength"}
            images = dict(zip(["image_reference"], images.get("image", ()), strict=False))
            images |= {theirs: options[ours] for theirs, ours in names.items()}
        return {
            "prompt": [prompt] * batch,
            "generator": seeds,
            "text_encoder_out_layers": self.states,
            **size,
            **images,
        }


def patch_mask() -> Image.Image:
    """Returns a mask of SIZE whose edges are those of patches: diffusers mixes both pictures within one."""
    mask = Image.new("L", tuple(SIZE.values()))
    mask.paste(255, (32, 16, 80, 64))
    return mask
