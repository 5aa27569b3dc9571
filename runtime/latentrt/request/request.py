"""The request: everything that a picture can be asked for, a row per field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentrt.request.rows import Choice, Flag, Number, Other, Text, Whole, pair, row, row_of
from latentrt.validate import plain

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentrt.images.pillow import Fit
    from latentrt.prompt import Order, Syntax
    from latentrt.request.control import Control
    from latentrt.sampling.curves import SigmasName
    from latentrt.sampling.noise.source import NoiseName
    from latentrt.sampling.resize import Upscaler
    from latentrt.sampling.schedule import Spacing
    from latentrt.sampling.start_latents import Posterior
    from latentrt.sampling.step_cache import Cached
    from latentrt.sampling.tiling import Seamless
    from latentrt.tensors import Array

RANDOM = -1  # a seed that stands for one drawn at random, as in AUTOMATIC1111
LARGEST_BATCH, LARGEST_SEED, LARGEST_PIXELS, LARGEST_SCALE = 4096, 2**64 - 1, 4096, 16
SHARE, LEVEL = Number(0, 1), Number(0, math.inf)


@dataclass(frozen=True)
class Request:
    """A picture, or a batch of them, as it is asked for. None means the default of the bundle or of the sampler.

    Numbers and lists may be NumPy's. Each field's row says its range and unit; docs/options.md has all in a table, and
    `latentrt generate --help` the same as options. Longer notes:

    prompt: in AUTOMATIC1111's language; see `syntax` and docs/prompts.md. LoRA tags name files of the pipeline's
    `lora_dir`. guidance: classifier-free guidance (Ho and Salimans 2022), one number, or one per step; at 1 and below
    the negative prompt is not used. guidance_rescale: Lin et al. (2023). guidance_interval: the sigmas between which
    guidance works (Kynkaanniemi et al. 2024), the lowest first; None for the highest is no end.
    seed: of the first image; image k has seed + k. With variation_strength every image has `seed`, and image k the
    variation seed variation_seed + k. posterior: the VAE encoder returns a mean and a variance; "mean" takes the mean,
    "sample" draws from them, as diffusers does. noise: the generator that a seed belongs to.
    init: width and height are then those of the image, cut to multiples of 8, unless given; for super-resolution those
    of the image times the factor. strength: the share of the steps that is taken, the last ones. mask_padding: only the
    part of the image around the mask is generated, at width and height, and put back. extend: pixels beyond the left,
    top, right and bottom side, with or without a mask inside.
    hires: a second pass, image to image from the upscaled first one.
    cache, cache_of, cache_order: step caching ("DeepCache", Ma et al. 2023), with the last call full; 1 is off. See
    docs/step-cache.md for what full calls keep, and the loss of each.
    image: unlike that of init, it is seen through CLIP only, and does not set the size; the prompt may be empty. Each
    picture of a batch has noise of its own in the embedding, drawn from its seed before that of its latents.
    references: seen beside the picture, which has the size of the first one unless width and height are given. Those of
    more than a megapixel are scaled down, and sides cut to multiples of 16.
    controls: width and height are those of the first ControlNet's or T2I-Adapter's image, where there is no init.
    class_label: for models that are conditioned on a class, such as those of ImageNet; a number, or one of the names
    that `latentrt inspect` lists, of any case.
    layout: a list of objects, each {"label": number of its class, "box": [left, top, width, height]} in shares of the
    picture. vectors: CLIP's vector of a text and those of neighbours, (vectors, width); each is brought to length 1.
    window, stride: MultiDiffusion (Bar-Tal et al. 2023) for sizes that the model was not trained at. seamless: by
    windows too.
    original_size, crop, target_size: SDXL's size conditioning (Podell et al. 2023), in pixels, (width, height) and
    (left, top). start, end: the range of the schedule that this run denoises; diffusers' denoising_start and
    denoising_end. latents: those that the run before ended with (`Run.latents`), (batch, channels, rows, columns).
    """

    prompt: str = row("", "Text of the picture.", "prompt", Text(), option=None)
    negative: str = row("", "Negative prompt: content to avoid.", "prompt", Text(), metavar="TEXT")
    steps: int | None = row(None, "Denoising steps.", "sampling", Whole(1), usual="the bundle's")
    guidance: float | Sequence[float] | None = row(
        None,
        "Guidance scale; 1 is off. A list has one per step.",
        "sampling",
        Number(),
        metavar="G[,G...]",
        parse="numbers",
        usual="the bundle's",
    )
    seed: int | None = row(
        None, "Seed of the first image; image k has SEED + k.", "sampling", Whole(0, LARGEST_SEED), usual="random"
    )
    width: int | None = row(None, "Width in pixels, a multiple of 8.", "size", Whole(1), option=None, part="base")
    height: int | None = row(None, "Height in pixels, a multiple of 8.", "size", Whole(1), option=None, part="base")
    sampler: str | None = row(
        None,
        "Sampler: euler, ddim, 'DPM++ 2M Karras' ...; see docs/samplers.md.",
        "sampling",
        Text(),
        metavar="NAME",
        usual="the bundle's",
    )
    sigmas: SigmasName | Sequence[float] | None = row(
        None,
        "Noise levels: a curve such as karras, or falling numbers.",
        "sampling",
        Other(),
        metavar="NAME|LIST",
        parse="sigmas",
        usual="the bundle's",
    )
    spacing: Spacing | None = row(
        None,
        "Timestep spacing: leading, trailing, linspace or compvis.",
        "sampling",
        Choice(("leading", "trailing", "linspace", "compvis")),
        metavar="NAME",
        usual="the bundle's",
    )
    batch: int = row(1, "Images per prompt.", "output", Whole(1, LARGEST_BATCH))
    class_label: int | str | None = row(
        None,
        "Class of a class-conditional model: its number or its name.",
        "prompt",
        Other(),
        option="class",
        metavar="N|NAME",
        parse="class",
    )
    cache: int | Sequence[int] | None = row(
        None,
        "Step cache: one full UNet call in N, and the last; or a list of full calls.",
        "sampling",
        Other(),
        metavar="N[,N...]",
        parse="calls",
        usual="off",
    )
    cache_of: Cached = row(
        "features",
        "What full calls leave: features, features+guidance, guidance or prediction.",
        "sampling",
        Choice(("features", "features+guidance", "guidance", "prediction")),
        metavar="NAME",
        only_with="cache",
    )
    cache_order: int = row(
        0, "Order of the step cache: 0 repeats, 1 extrapolates.", "sampling", Whole(0, 1), only_with="cache"
    )
    preset: str | None = row(
        None,
        "Preset of the bundle, or of a LoRA for few steps; none leaves out a LoRA's.",
        "sampling",
        Text(),
        metavar="NAME",
        usual="none",
    )
    syntax: Syntax = row(
        "strict",
        "Prompt syntax: strict, lenient (as AUTOMATIC1111) or plain text.",
        "prompt",
        Choice(("strict", "lenient", "plain")),
        metavar="NAME",
    )
    lora_tags: Order = row(
        "a1111",
        "Order in <lora:NAME:A:B>: a1111 (text, UNet) or comfyui.",
        "prompt",
        Choice(("a1111", "comfyui")),
        metavar="NAME",
    )
    guidance_rescale: float = row(
        0.0, "Guidance rescale against overexposure, 0 to 1.", "sampling", SHARE, metavar="PHI"
    )
    guidance_interval: tuple[float, float | None] | None = row(
        None, "Sigmas between which guidance works.", "sampling", LEVEL, metavar="LO,HI", parse="numbers", usual="all"
    )
    image_guidance: float | None = row(
        None,
        "InstructPix2Pix: image guidance scale, 1 and above.",
        "images",
        Number(1),
        metavar="S",
        usual="1.5",
        only_with="init",
        part="base",
    )
    clip_skip: int = row(1, "Text encoder layer, from the last: 1 is the last.", "prompt", Whole(1))
    noise: NoiseName = row(
        "cpu",
        "Random generator to imitate: torch on cpu, or on cuda.",
        "sampling",
        Choice(("cpu", "cuda")),
        metavar="NAME",
    )
    variation_seed: int | None = row(
        None, "Second seed, towards which the noise turns.", "sampling", Whole(0, LARGEST_SEED)
    )
    variation_strength: float = row(0.0, "Turn towards --variation-seed, 0 to 1.", "sampling", SHARE, metavar="F")
    blend: str | None = row(None, "Second prompt, mixed into the first.", "prompt", Text(), metavar="TEXT")
    blend_strength: float = row(0.0, "Share of --blend in the mix, 0 to 1.", "prompt", SHARE, metavar="F")
    init: str | Path | Image | None = row(
        None,
        "Image to start from (image to image); sets the size.",
        "images",
        Other(),
        metavar="IMG",
        part="base",
        as_given=True,
    )
    strength: float | None = row(
        None,
        "Share of the steps taken from --init, 0 to 1.",
        "images",
        SHARE,
        metavar="F",
        usual="0.8",
        only_with="init",
        part="base",
    )
    fit: Fit = row(
        "stretch",
        "Fit of --init to --size: stretch or crop.",
        "images",
        Choice(("stretch", "crop")),
        metavar="NAME",
        only_with="init",
        part="base",
    )
    posterior: Posterior = row(
        "mean",
        "Encoding of --init: mean (repeatable) or sample (as diffusers).",
        "images",
        Choice(("mean", "sample")),
        metavar="NAME",
        only_with="init",
        part="base",
    )
    mask: str | Path | Image | None = row(
        None,
        "Mask of --init's size; white is generated anew (inpainting).",
        "images",
        Other(),
        metavar="IMG",
        only_with="init",
        part="base",
        as_given=True,
    )
    mask_blur: float = row(
        0.0,
        "Blur of the mask's edges, pixels, 0 to 4096.",
        "images",
        Number(0, LARGEST_PIXELS),
        metavar="PX",
        only_with="mask",
        part="base",
    )
    mask_padding: int | None = row(
        None,
        "Generate only the mask's surroundings: pixels around it, 0 to 4096.",
        "images",
        Whole(0, LARGEST_PIXELS),
        metavar="PX",
        only_with="mask",
        part="base",
    )
    overlay: bool = row(
        False, "Copy the pixels outside the mask back unchanged.", "images", Flag(), only_with="mask", part="base"
    )
    extend: Sequence[int] | None = row(
        None,
        "Outpainting: pixels added at the left, top, right, bottom.",
        "images",
        Whole(0, LARGEST_PIXELS),
        metavar="L,T,R,B",
        parse="pixels",
        only_with="init",
        part="base",
    )
    hires: float | None = row(
        None,
        "Second pass at a size X times larger, 1 to 16.",
        "size",
        Number(1, LARGEST_SCALE),
        metavar="X",
        part="base",
    )
    hires_steps: int | None = row(
        None,
        "Steps of the second pass.",
        "size",
        Whole(1),
        metavar="N",
        usual="same as --steps",
        only_with="hires",
        part="base",
    )
    hires_strength: float | None = row(
        None,
        "Share of --hires-steps taken, 0 to 1.",
        "size",
        SHARE,
        metavar="F",
        usual="0.5",
        only_with="hires",
        part="base",
    )
    hires_upscaler: Upscaler = row(
        "latent",
        "Upscaling before the second pass: latent or lanczos.",
        "size",
        Choice(("latent", "lanczos")),
        metavar="NAME",
        only_with="hires",
        part="base",
    )
    vectors: str | Path | Array | None = row(
        None,
        "CLIP vectors of a retrieval-augmented model: a .npy file, (vectors, width).",
        "prompt",
        Other(),
        metavar="FILE",
        as_given=True,
    )
    layout: str | Path | Sequence[Mapping[str, Any]] | None = row(
        None, "Boxes of a layout-to-image model: a JSON file.", "prompt", Other(), metavar="FILE"
    )
    image: str | Path | Image | None = row(
        None,
        "Image to vary, of a model of image variations (unCLIP).",
        "images",
        Other(),
        metavar="IMG",
        part="base",
        as_given=True,
    )
    noise_level: int = row(
        0, "Noise in the image embedding of unCLIP, 0 to 999: more is freer.", "images", Whole(0), part="base"
    )
    prior_steps: int | None = row(
        None, "Steps of unCLIP's prior, from prompt to embedding.", "sampling", Whole(1), usual="25", part="base"
    )
    prior_guidance: float | None = row(
        None, "Guidance scale of unCLIP's prior; 1 is off.", "sampling", Number(), metavar="G", usual="4", part="base"
    )
    segmentation: str | Path | Image | Array | None = row(
        None,
        "Label map of a model of segmentations: one label per pixel; sets the size.",
        "images",
        Other(),
        metavar="IMG",
        part="base",
        as_given=True,
    )
    references: Sequence[str | Path | Image] = row(
        (),
        "Reference image of a model that edits; repeatable.",
        "images",
        Other(),
        option="reference",
        metavar="FILE",
        parse="images",
        part="base",
        as_given=True,
    )
    controls: Sequence[Control] = row(
        (),
        "Image for a ControlNet, T2I- or IP-Adapter; repeatable.",
        "control",
        Other(),
        option="control",
        metavar="NAME=IMG[:SCALE[:START:END]]",
        parse="controls",
        part="base",
        as_given=True,
    )
    guess: bool = row(False, "ControlNet guess mode, for prompts that say little.", "control", Flag(), part="base")
    window: int | None = row(
        None, "Tile size in pixels, for sizes beyond the model's training.", "size", Whole(1), metavar="PX", usual="off"
    )
    stride: int | None = row(
        None, "Distance between tiles in pixels.", "size", Whole(1), metavar="PX", usual="a quarter of a tile"
    )
    seamless: Seamless | None = row(
        None,
        "Edges that meet, for repeating pictures: x, y or xy.",
        "size",
        Choice(("x", "y", "xy")),
        metavar="AXES",
        usual="none",
    )
    original_size: tuple[int, int] | None = pair("SDXL: original size, a conditioning input.", 1, "WxH", "the size")
    crop: tuple[int, int] | None = pair("SDXL: crop offset (left x top), a conditioning input.", 0, "XxY", "0x0")
    target_size: tuple[int, int] | None = pair(
        "SDXL: size after cropping, a conditioning input.", 1, "WxH", "the size", part="base"
    )
    aesthetic_score: float | None = row(
        None,
        "SDXL refiner: aesthetic score of the picture, 0 to 10.",
        "prompt",
        Number(0, 100),
        usual="6",
        part="refiner",
    )
    negative_aesthetic_score: float | None = row(
        None,
        "SDXL refiner: aesthetic score of the negative prompt, 0 to 10.",
        "prompt",
        Number(0, 100),
        usual="2.5",
        part="refiner",
    )
    start: float = row(0.0, "Start of the denoising range, 0 to 1.", "python", SHARE, option=None, part="base")
    end: float = row(1.0, "End of the denoising range, 0 to 1.", "python", SHARE, option=None, part="refiner")
    latents: Array | None = row(
        None, "Latents to go on from at `start`.", "python", Other(), option=None, part="refiner", as_given=True
    )
    fast_decode: bool = row(
        False, "Decode with the bundle's tiny decoder: faster, less exact.", "output", Flag(), part="refiner"
    )
    eta: float | None = row(None, "Noise added by ancestral, SDE and DDIM samplers, 0 to 1.", "sampling", Other())
    gamma: float | None = row(None, "Noise added by the tcd sampler, 0 to 1.", "sampling", Other())
    order: int | None = row(None, "Order of lms, dpmpp_2m, unipc or deis.", "sampling", Other())
    solver: str | None = row(
        None, "Solver: midpoint or heun; bh1 or bh2 for unipc.", "sampling", Other(), metavar="NAME"
    )

    def __post_init__(self) -> None:
        """Turns numbers and lists of NumPy's into Python's, so that requests compare and go into JSON."""
        for field in fields(self):
            if not row_of(field).as_given:
                object.__setattr__(self, field.name, plain(getattr(self, field.name)))
