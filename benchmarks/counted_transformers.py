"""The components of PixArt-Sigma, FLUX.2 klein 4B and Stable Diffusion 3.5 medium to count, as an export makes them.

All have their published depth. PixArt's autoencoder is SDXL's. Stable Diffusion 3.5 is counted without T5; its other
text encoders are SDXL's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    Flux2Transformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
)

from benchmarks.counted import Counted
from benchmarks.transformer_shapes import KLEIN, PIXART, QWEN3, SD3_VAE, SD35_MEDIUM, T5_XXL
from latentrt_export.checkpoint.families import FAMILIES
from latentrt_export.components import qwen3 as qwen3_component
from latentrt_export.components import sd3 as sd3_component
from latentrt_export.components.parts import TRANSFORMERS
from latentrt_export.components.text import text_parts
from latentrt_export.components.vae import vae_parts
from latentrt_export.networks import qwen3, t5
from latentrt_export.networks.component import Part

FAMILY = {family.name: family for family in FAMILIES}


@dataclass(frozen=True)
class Model:
    """A published model. sides: of its square latents. prompts: of a picture. tokens: of a full row. n: its timesteps.

    builds: the modules whose components are counted.
    """

    family: str
    sides: tuple[int, ...]
    prompts: int
    tokens: int
    n: int
    builds: tuple[Callable[[], Any], ...]

    def sizes(self, part: Part) -> tuple[Mapping[str, int], ...]:
        """The sizes of a component's axes. Those without sides are counted once."""
        sides = self.sides if any("height" in spec.shape for spec in part.inputs) else self.sides[-1:]
        batch = 1 if part.role == "vae_decoder" else self.prompts
        return tuple(
            {"batch": batch, "height": side, "width": side, "tokens": self.tokens, "n": self.n} for side in sides
        )


# Stable Diffusion 3's timesteps are counted once for each prompt, its rows are 77 of CLIP's and 256 of zeros.
MODELS = {
    "pixart-sigma": Model(
        *("pixart-sigma", (64, 128), 2, 300, 20),
        builds=(lambda: t5.build(T5_XXL), lambda: PixArtTransformer2DModel(**PIXART)),
    ),
    "flux2-klein-4b": Model(
        *("flux2-klein", (32, 64), 1, 512, 4),
        builds=(lambda: qwen3.build(QWEN3), lambda: Flux2Transformer2DModel(**KLEIN), AutoencoderKLFlux2),
    ),
    "sd35-medium": Model(
        *("sd3-without-t5", (128,), 2, 77 + 256, 2 * 28),
        builds=(lambda: SD3Transformer2DModel(**SD35_MEDIUM), lambda: AutoencoderKL(**SD3_VAE)),
    ),
}


def transformer_modules() -> Iterator[Counted]:
    """Yields the modules to count, each made when it is needed."""
    for name, model in MODELS.items():
        for build in model.builds:
            yield from counted_parts(name, model, build)


def counted_parts(name: str, model: Model, build: Callable[[], Any]) -> list[Counted]:
    """The components of a module on the meta device, where nothing can be compared with numbers."""
    checks = patch.object(sd3_component, "check_positions"), patch.object(qwen3_component, "qwen3_probe")
    with torch.device("meta"), checks[0], checks[1]:
        return [
            Counted(f"{name}/{part.name}", part.build(), part.inputs, part.outputs[0], model.sizes(part), part.multiple)
            for part in parts_of(build(), model)
            if part.role != "vae_encoder"
        ]


def parts_of(module: Any, model: Model) -> Iterator[Part]:
    """The components that an export makes of a module."""
    if type(module) in TRANSFORMERS:
        return TRANSFORMERS[type(module)](module)
    if isinstance(module, AutoencoderKL | AutoencoderKLFlux2):
        return vae_parts(module)
    return text_parts(module, FAMILY[model.family].encoders["text_encoder"])
