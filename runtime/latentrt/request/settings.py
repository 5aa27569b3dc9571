"""A request with every choice made, once it is known that it can be run."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from latentrt.bundle.manifest import Manifest
from latentrt.bundle.tasks import TINY_DECODER
from latentrt.errors import RequestError
from latentrt.prompt import ORDERS, SYNTAXES, Order, Syntax
from latentrt.request.controls import Settled, controls_of
from latentrt.request.denoising_range import Handover, handover_of
from latentrt.request.hires import Grown, Hires, hires_of
from latentrt.request.init_image import Source, cut, source_of
from latentrt.request.request import RANDOM, Request
from latentrt.request.sigmas import curve_asked, sigmas_of, steps_of
from latentrt.request.size_conditioning import scores_of, sizes_of
from latentrt.request.tiling import windows_of
from latentrt.sampling.curves import Sigmas
from latentrt.sampling.guidance import EVERYWHERE
from latentrt.sampling.noise.source import NoiseName, NoiseSpec
from latentrt.sampling.samplers import SAMPLERS, Option, Value
from latentrt.sampling.samplers.names import Named, sampler_named
from latentrt.sampling.schedule import Spacing
from latentrt.sampling.tiling import Seamless
from latentrt.validate import choice, flag, number, shown, side, text, whole

SPACINGS: tuple[Spacing, ...] = get_args(Spacing)
NOISES: tuple[NoiseName, ...] = get_args(NoiseName)
OPTIONS = ("eta", "gamma", "order", "solver")
LARGEST_SEED = 2**64 - 1
LARGEST_BATCH = 4096
# As in diffusers 0.42.1's StableDiffusionInstructPix2PixPipeline.
IMAGE_GUIDANCE = 1.5


@dataclass(frozen=True)
class Settings:
    """A request with every choice made, checked against the bundle.

    options: the sampler's own. image_guidance: None where the UNet is shown no image. source: the image to start from,
    None where there is none. controls: with their images opened. handover: the part of the way that is gone. hires: the
    pass that follows. grown: what a second pass starts from.
    """

    prompt: str
    negative: str
    steps: int
    guidance: float | tuple[float, ...]
    seeds: tuple[int, ...]
    width: int
    height: int
    sampler: str
    sigmas: Sigmas
    spacing: Spacing
    syntax: Syntax = "strict"
    lora_tags: Order = "a1111"
    guidance_rescale: float = 0.0
    guidance_interval: tuple[float, float] | None = None
    image_guidance: float | None = None
    clip_skip: int = 1
    noise: NoiseName = "cpu"
    variation_seeds: tuple[int, ...] = ()
    variation_strength: float = 0.0
    blend: str | None = None
    blend_strength: float = 0.0
    original_size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    target_size: tuple[int, int] | None = None
    aesthetic_score: float | None = None
    negative_aesthetic_score: float | None = None
    options: Mapping[str, Value] = field(default_factory=dict)
    source: Source | None = None
    controls: tuple[Settled, ...] = ()
    guess: bool = False
    window: int | None = None
    stride: int | None = None
    seamless: Seamless | None = None
    handover: Handover = Handover()
    fast_decode: bool = False
    hires: Hires | None = None
    grown: Grown | None = None

    @property
    def noise_spec(self) -> NoiseSpec:
        """Which random numbers the run uses."""
        return NoiseSpec(self.noise, self.seeds, self.variation_seeds, self.variation_strength)

    @property
    def decoder(self) -> str:
        """The component that makes the picture."""
        return TINY_DECODER if self.fast_decode else "vae_decoder"

    @property
    def skipped(self) -> int:
        """How many steps at the front are not taken."""
        start = self.source or self.grown
        return start.skipped(self.steps) if start else 0

    @property
    def scales(self) -> tuple[float, ...]:
        """The guidance at each step."""
        return self.guidance if isinstance(self.guidance, tuple) else (self.guidance,) * self.steps

    @property
    def interval(self) -> tuple[float, float]:
        """The sigmas between which guidance works."""
        return self.guidance_interval or EVERYWHERE


def guided(settings: Settings, manifest: Manifest) -> bool:
    """Whether a step calls the UNet on the negative prompt too: a model that is told the guidance is not guided so."""
    return not manifest.embeds_guidance and max(settings.scales) > 1


def settle(request: Request, manifest: Manifest) -> Settings:
    """Returns `request` with the defaults filled in. Raises RequestError for what cannot be generated."""
    defaults, pixels = manifest.defaults, manifest.latents.factor
    named = sampler_named(chosen(request.sampler, defaults.sampler))
    sampler = named.sampler
    check_family(sampler, manifest)
    sigmas = sigmas_of(chosen(curve_asked(request, named), defaults.sigmas))
    steps = steps_of(request, sigmas, manifest)
    batch = whole("batch", request.batch, 1, LARGEST_BATCH)
    strength = strength_of("variation_strength", "variation_seed", request)
    blend_strength = strength_of("blend_strength", "blend", request)
    asked = request.variation_seed is not None
    variations = seeds_of("variation_seed", request.variation_seed, batch) if asked else ()
    source, handover = source_of(request, manifest), handover_of(request, manifest.latents.channels)
    controls = controls_of(request.controls, manifest)
    width, height = size_of(request, manifest, own_size(source, handover, controls, pixels))
    settings = Settings(
        prompt=text("prompt", request.prompt),
        negative=text("negative", request.negative),
        steps=steps,
        guidance=guidance_of(chosen(request.guidance, defaults.guidance), steps, one=manifest.embeds_guidance),
        seeds=seeds_of("seed", request.seed, batch, one=strength > 0),
        width=width,
        height=height,
        sampler=sampler,
        sigmas=sigmas,
        spacing=choice("spacing", chosen(request.spacing, manifest.schedule.spacing), SPACINGS),
        syntax=choice("syntax", request.syntax, SYNTAXES),
        lora_tags=choice("lora_tags", request.lora_tags, ORDERS),
        guidance_rescale=number("guidance_rescale", request.guidance_rescale, 0, 1),
        guidance_interval=interval_of(request.guidance_interval),
        image_guidance=image_guidance_of(request, manifest),
        clip_skip=whole("clip_skip", request.clip_skip, 1, manifest.text.layers),
        noise=choice("noise", request.noise, NOISES),
        variation_seeds=variations if strength else (),
        variation_strength=strength,
        blend=text("blend", request.blend) if request.blend is not None and blend_strength else None,
        blend_strength=blend_strength,
        **sizes_of(request, manifest, (width, height)),
        **scores_of(request, manifest),
        options=options_of(request, named),
        source=source,
        controls=controls,
        guess=flag("guess", request.guess),
        **windows_of(request, manifest),
        handover=handover,
        fast_decode=fast_decode_of(request, manifest),
        hires=hires_of(request, manifest, steps),
    )
    if handover.latents is not None and handover.size(pixels) != (width, height):
        raise RequestError(f"latents: got those of {handover.size(pixels)} pixels, expected {(width, height)}")
    if source:
        source.skipped(steps)
    check_controls(settings)
    return settings


def size_of(request: Request, manifest: Manifest, own: tuple[str, tuple[int, int]] | None) -> tuple[int, int]:
    """The picture's width and height: those asked for, else those of `own`, of which it names the image, cut to
    multiples, else the bundle's."""
    defaults, pixels = manifest.defaults, manifest.latents.factor
    asked, usual = (request.width, request.height), (defaults.width, defaults.height)
    if own is not None and None in asked:
        usual = cut(own[0], own[1], pixels, asked)
    width, height = (
        side(name, chosen(one, other), pixels)
        for name, one, other in zip(("width", "height"), asked, usual, strict=True)
    )
    return width, height


def own_size(
    source: Source | None, handover: Handover, controls: Sequence[Settled], pixels: int
) -> tuple[str, tuple[int, int]] | None:
    """What the picture's size follows, and its size: what it starts from, else the first image that is seen whole."""
    if source:
        return ("init", source.image.size) if source.whole else None
    if (size := handover.size(pixels)) is not None:
        return "latents", size
    return next(((f"control {one.name}", one.image.size) for one in controls if one.side is None), None)


def check_controls(settings: Settings) -> None:
    """Raises RequestError for images that cannot steer what is asked for besides."""
    if settings.guess and not any(control.role == "controlnet_hint" for control in settings.controls):
        raise RequestError("guess: got it without a ControlNet; give an image for one too")
    source = settings.source
    if source is None or source.mask is None or source.mask.padding is None:
        return
    for control in settings.controls:
        if control.side is None and control.image.size != source.image.size:
            sizes = ["x".join(map(str, one.size)) for one in (control.image, source.image)]
            raise RequestError(
                f"control {control.name}: got {sizes[0]} pixels, expected {sizes[1]}, the init's, with mask_padding"
            )


def with_seed(settings: Settings, image: int) -> Settings:
    """The settings that give one image of a batch by itself."""
    variations = settings.variation_seeds and (settings.variation_seeds[image],)
    return replace(settings, seeds=(settings.seeds[image],), variation_seeds=variations)


def chosen(asked: Any, default: Any) -> Any:
    """What is asked for, or the default where nothing is."""
    return default if asked is None else asked


def check_family(sampler: str, manifest: Manifest) -> None:
    """Raises RequestError unless the sampler is for what the model predicts."""
    prediction = manifest.schedule.prediction
    if SAMPLERS[sampler].flow != (prediction == "flow_prediction"):
        fitting = [name for name, known in SAMPLERS.items() if known.flow != SAMPLERS[sampler].flow]
        raise RequestError(f"sampler: got {sampler}, but the model's is {prediction}; use {', '.join(fitting)}")


def fast_decode_of(request: Request, manifest: Manifest) -> bool:
    """Whether the tiny decoder is to make the picture. Raises RequestError where the bundle has none."""
    if flag("fast_decode", request.fast_decode) and TINY_DECODER not in manifest.components:
        raise RequestError(
            f"fast_decode: got True, but {manifest.name} has no {TINY_DECODER}; leave it out, or export the model "
            "again with `latentrt export --tiny-decoder PATH`"
        )
    return request.fast_decode


def guidance_of(asked: Any, steps: int, *, one: bool = False) -> float | tuple[float, ...]:
    """One finite number, or one a step. one: whether the model is told it, and so has one for all."""
    if one or isinstance(asked, str) or not isinstance(asked, Sequence):
        return number("guidance", asked, -math.inf, math.inf)
    if len(asked) != steps:
        raise RequestError(f"guidance: got {len(asked)} numbers for {steps} steps, expected one a step, or one for all")
    return tuple(number("guidance", scale, -math.inf, math.inf) for scale in asked)


def interval_of(asked: Any) -> tuple[float, float] | None:
    """The lowest and the highest sigma, or None for everywhere; a highest of None is infinity, as JSON has none."""
    if asked is None:
        return None
    if isinstance(asked, str) or not isinstance(asked, Sequence) or len(asked) != 2:
        raise RequestError(f"guidance_interval: got {shown(asked)}, expected two sigmas, for example (0.3, 3.0)")
    low = number("guidance_interval", asked[0], 0, math.inf)
    endless = asked[1] is None or asked[1] == math.inf
    high = math.inf if endless else number("guidance_interval", asked[1], 0, math.inf)
    if low > high:
        raise RequestError(f"guidance_interval: got {low} to {high}, expected the lower sigma first")
    return low, high


def image_guidance_of(request: Request, manifest: Manifest) -> float | None:
    """How much of an image that the UNet is shown guides; None where it is shown none."""
    asked = request.image_guidance
    if "image" not in manifest.extra_channels:
        if asked is not None:
            raise RequestError(f"image_guidance: got {shown(asked)}, but {manifest.name} edits no images; leave it out")
        return None
    return None if request.init is None else number("image_guidance", chosen(asked, IMAGE_GUIDANCE), 1, math.inf)


def seeds_of(name: str, asked: int | None, batch: int, *, one: bool = False) -> tuple[int, ...]:
    """One seed an image, each one more than the last unless all have `one`; drawn from the system if none is asked.

    RANDOM is none.
    """
    first = (
        secrets.randbits(32)
        if asked in (None, RANDOM)
        else whole(name, asked, 0, LARGEST_SEED - (0 if one else batch - 1))
    )
    return (first,) * batch if one else tuple(range(first, first + batch))


def strength_of(name: str, towards: str, request: Request) -> float:
    """How far to turn. Raises RequestError for a strength without anything to turn towards."""
    strength = number(name, getattr(request, name), 0, 1)
    if strength and getattr(request, towards) is None:
        raise RequestError(f"{name}: got {strength:g} without a {towards}; give one to turn towards")
    return strength


def options_of(request: Request, named: Named) -> dict[str, Value]:
    """The sampler's options, with its defaults. Raises RequestError for one that it does not have."""
    given = {name: getattr(request, name) for name in OPTIONS if getattr(request, name) is not None}
    sampler, asked = named.sampler, {**named.options, **given}
    known = SAMPLERS[sampler].options
    for name in asked.keys() - known.keys():
        having = [other for other, kind in SAMPLERS.items() if name in kind.options]
        raise RequestError(f"{name}: got {shown(asked[name])}, but {sampler} has none; it is for {', '.join(having)}")
    return {name: option_of(name, chosen(asked.get(name), option.default), option) for name, option in known.items()}


def option_of(name: str, value: Any, option: Option) -> Value:
    """`value`, once known to be one that the option takes."""
    return choice(name, value, option.choices) if option.choices else number(name, value, *option.range)
