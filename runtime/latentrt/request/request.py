"""What a run is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from latentrt.images.pillow import Fit
from latentrt.prompt import Order, Syntax
from latentrt.request.control import Control
from latentrt.sampling.curves import SigmasName
from latentrt.sampling.noise.source import NoiseName
from latentrt.sampling.resize import Upscaler
from latentrt.sampling.schedule import Spacing
from latentrt.sampling.start_latents import Posterior
from latentrt.sampling.tiling import Seamless
from latentrt.tensors import Array
from latentrt.validate import plain

if TYPE_CHECKING:
    from PIL.Image import Image


RANDOM = -1  # a seed that stands for one drawn at random, as in AUTOMATIC1111
# Fields that may hold images or arrays; all others hold what JSON has.
AS_GIVEN = ("init", "mask", "controls", "latents")


@dataclass(frozen=True)
class Request:
    """What to generate. None means the bundle's or the sampler's default; for `seed`, one drawn at
    random, as -1 does. Numbers and lists may be NumPy's.

    prompt: in AUTOMATIC1111's language, see `syntax` and docs/prompts.md; its LoRA tags name files of the pipeline's
    `lora_dir`. lora_tags: whose order two numbers of a tag have, "a1111" (text encoder, UNet) or "comfyui" (UNet, text
    encoder). guidance: classifier-free guidance, one for
    all steps or one a step; at 1 and below the negative prompt is not used. seed: of the first image; image k has
    seed + k. width, height: pixels. sigmas: a curve's name, or the noise levels themselves, falling. spacing: how
    timesteps are laid out over the training schedule.

    guidance_rescale: 0 to 1, Lin et al. (2023). guidance_interval: the sigmas between which guidance works, the lowest
    first; None for the highest is no end. image_guidance: how closely a model that edits images (InstructPix2Pix) keeps
    to init, 1 and above (default 1.5); at 1 its share is what it is without; works where guidance does.
    clip_skip: 1 takes the text encoder's last layer, 2 the one before. noise: whose normals a seed stands for, those of
    torch on a "cpu" or on a "cuda" GPU. variation_seed: turns the noise of `seed` towards that of another by
    variation_strength, 0 to 1; every image then has `seed`, and image k variation_seed + k.

    blend: another prompt, towards which what the UNet is told is mixed by blend_strength, 0 to 1.

    init: an image to start from, or its file; width and height are then its own, cut to multiples of 8. strength: the
    share of the steps that is taken, the last ones, above 0 and up to 1 (default 0.8; 1 where the UNet is shown the
    image besides). fit: how an image of other sides is brought to width and height. posterior: which latents the
    encoder's answer stands for, its mean, or a draw from the image's noise ahead of all others, as diffusers does.

    mask: an image of init's size, or its file; only what is white in it is painted anew. mask_blur: how far its edges
    are softened, pixels. mask_padding: paint just the part of the image around what is white, so many pixels wider, at
    width and height, the bundle's own unless given, and put it back. overlay: put what is not masked back exactly.
    extend: how many pixels are painted beyond init's left, top, right and bottom, with or without a mask inside.

    hires: how much larger a second pass makes the picture, 1 to 16, from image to image. hires_steps: its steps, by
    default as many, of which it takes the last hires_strength, above 0 and up to 1 (default 0.5). hires_upscaler:
    "latent", between latents, or "lanczos", between the pixels of a picture that is decoded for it.

    controls: images that steer the picture through the bundle's ControlNets, T2I-Adapters and IP-Adapters: `Control`.
    Width and height are those of the first one for one of the former two, cut to multiples of 8, where there is no
    init. guess: ControlNets without a say in the negative prompt's half, and less at high resolution: for prompts that
    say little.

    window, stride: the model sees the picture through square windows of so many pixels, so many apart (by default a
    quarter), for sizes that it was not trained at. seamless: the edges that meet, so that the picture repeats from left
    to right ("x"), from top to bottom or both ways; by windows too, of the bundle's own size unless given.

    original_size, target_size: (width, height) in pixels, and crop: (left, top), for models that were told how their
    pictures had been cut (SDXL): the sizes of the picture that this is to look like, by default those of this one, and
    what is missing at its left and top, by default nothing.

    aesthetic_score, negative_aesthetic_score: how well liked the picture is to look, and the negative prompt's, on a
    scale to 10, for models that were told (SDXL's refiner): 6 and 2.5 by default.

    start, end: the part of the way from noise to picture that is gone, 0 to 1, for models that share it. latents: those
    with which the run that ended at `start` ended (`Run.latents`), (batch, channels, rows, columns).

    fast_decode: have the bundle's tiny decoder draw the picture, in less time and memory, in place of the VAE's.

    eta, gamma, order, solver: for the samplers that have them; see docs/samplers.md.
    """

    prompt: str
    negative: str = ""
    steps: int | None = None
    guidance: float | Sequence[float] | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    sampler: str | None = None
    sigmas: SigmasName | Sequence[float] | None = None
    spacing: Spacing | None = None
    batch: int = 1
    syntax: Syntax = "strict"
    lora_tags: Order = "a1111"
    guidance_rescale: float = 0.0
    guidance_interval: tuple[float, float | None] | None = None
    image_guidance: float | None = None
    clip_skip: int = 1
    noise: NoiseName = "cpu"
    variation_seed: int | None = None
    variation_strength: float = 0.0
    blend: str | None = None
    blend_strength: float = 0.0
    init: str | Path | Image | None = None
    strength: float | None = None
    fit: Fit = "stretch"
    posterior: Posterior = "mean"
    mask: str | Path | Image | None = None
    mask_blur: float = 0.0
    mask_padding: int | None = None
    overlay: bool = False
    extend: Sequence[int] | None = None
    hires: float | None = None
    hires_steps: int | None = None
    hires_strength: float | None = None
    hires_upscaler: Upscaler = "latent"
    controls: Sequence[Control] = ()
    guess: bool = False
    window: int | None = None
    stride: int | None = None
    seamless: Seamless | None = None
    original_size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    target_size: tuple[int, int] | None = None
    aesthetic_score: float | None = None
    negative_aesthetic_score: float | None = None
    start: float = 0.0
    end: float = 1.0
    latents: Array | None = None
    fast_decode: bool = False
    eta: float | None = None
    gamma: float | None = None
    order: int | None = None
    solver: str | None = None

    def __post_init__(self) -> None:
        """Turns numbers and lists of NumPy's into Python's, so that requests compare and go into JSON."""
        for field in fields(self):
            if field.name not in AS_GIVEN:
                object.__setattr__(self, field.name, plain(getattr(self, field.name)))
