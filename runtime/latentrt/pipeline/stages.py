"""The stages of a picture: encode prompts, make initial latents, denoise, decode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from latentrt.bundle.tasks import TINY_DECODER
from latentrt.conditioning.control import ControlSet
from latentrt.conditioning.extra_channels import ChannelMaker, extra_channels_of
from latentrt.conditioning.image_embedding import image_embedding, noise_shapes
from latentrt.conditioning.inputs import DenoiserInputs, InputMaker, denoiser_inputs
from latentrt.conditioning.prompts import conditioning_of, with_zero_negative
from latentrt.conditioning.references import References
from latentrt.conditioning.text import encode
from latentrt.images.pillow import to_images, to_pixels, to_unit_range
from latentrt.pipeline.denoiser import Denoiser
from latentrt.pipeline.prepare import Prepared
from latentrt.pipeline.result import Step
from latentrt.pipeline.step_cache import StepCache
from latentrt.pipeline.timed import Timed
from latentrt.request.settings import Settings
from latentrt.sampling.guidance import Guidance
from latentrt.sampling.inpainting import inpainting
from latentrt.sampling.noise.source import NoiseSource
from latentrt.sampling.prediction import PREDICTIONS
from latentrt.sampling.samplers import SAMPLERS
from latentrt.sampling.start_latents import keep_unmasked, sample_posterior, starting_latents
from latentrt.sampling.step import Denoise, Noise
from latentrt.sampling.tiling import decoded, decoded_in_tiles, decoder_tiles, tiled
from latentrt.tensors import Array

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Encoded:
    """All inputs that depend only on the prompts, the control images or the timesteps."""

    inputs: DenoiserInputs
    guidance: Guidance
    controls: ControlSet | None


@dataclass(frozen=True)
class Start:
    """The sampler's initial latents, and its source of noise.

    keep: a function that restores the latents outside a mask, noised to a sigma; None without a mask. extra_channels:
    (batch, channels, rows, columns); None for models that take latents alone. references: None without any.
    """

    latents: Array
    noise: Noise
    keep: Callable[[Array, float], None] | None
    extra_channels: Array | None
    references: References | None = None


def encode_prompts(run: Timed, prepared: Prepared) -> Encoded:
    """Runs the text encoders and the hoisted graphs; returns every input of the denoiser known before the loop."""
    settings, prompts, manifest = prepared.settings, prepared.prompts, run.components.bundle.manifest
    guidance = guidance_of(run, prepared)
    times = prepared.calls.levels
    alone = not guidance.works(times) and prompts.positive.weight == 1
    zero = not alone and manifest.text is not None and manifest.text.zero_negative and not settings.text.negative
    used = [prompts.positive] if alone or zero else [prompts.negative, prompts.positive]
    used += [prompts.blend] if prompts.blend else []
    texts = encode(run.call, manifest, used, settings.text.clip_skip)
    blend = (prompts.blend, settings.text.blend_strength) if prompts.blend else None
    negative = None if alone or zero else prompts.negative
    padded = manifest.text is None or manifest.text.padded
    conditioning = conditioning_of(texts, prompts.positive, negative, blend, padded=padded)
    if zero:
        conditioning = with_zero_negative(conditioning, settings.steps)
    image = image_embedding(run.call, manifest, settings, prompts.positive)
    inputs = denoiser_inputs(manifest, InputMaker(run.call, conditioning, settings, times, image))
    return Encoded(inputs, guidance, attach_controls(run, prepared) if manifest.controls else None)


def guidance_of(run: Timed, prepared: Prepared) -> Guidance:
    """The guidance at each step; scales of 1 for a model that takes the scale as an input."""
    settings = prepared.settings
    spec, steps = settings.guidance, settings.steps
    scales = (1.0,) * steps if run.components.bundle.manifest.embeds_guidance else settings.scales
    return Guidance(scales, spec.sigmas, spec.rescale, spec.image or 1.0)


def attach_controls(run: Timed, prepared: Prepared) -> ControlSet:
    """The control images, each encoded by its network."""
    settings, steps = prepared.settings, len(prepared.whole.sigmas) - prepared.first
    manifest = run.components.bundle.manifest
    controls = ControlSet(run.call, manifest, prepared.first, steps, settings.controls.guess)
    for control in settings.controls.images:
        with run.phase("image"):
            image = to_unit_range(control.fit_to(settings.width, settings.height, settings.init_image))
        controls.attach(control, image)
    return controls


def initial_latents(run: Timed, prepared: Prepared) -> Start:
    """Noise, an image's latents with noise, or the latents of an earlier run: diffusers' `prepare_latents`."""
    settings, manifest = prepared.settings, run.components.bundle.manifest
    space, image = manifest.latents, settings.init_image
    size = (settings.height // space.factor, settings.width // space.factor)
    source = NoiseSource(settings.noise, (space.channels, *size), noise_shapes(manifest, settings))
    mask = image.latent_mask(settings.width, settings.height, space.factor) if image else None
    # Inpainting at strength 1, and models that take the image as extra channels, start from noise alone.
    noise_alone = not settings.skipped and (mask is not None or bool(manifest.extra_channels))
    mask = None if "mask" in manifest.extra_channels else mask  # inpainting models keep the rest by themselves
    clean = None if noise_alone and mask is None else clean_latents(run, prepared, source)
    earlier = settings.denoising_range.latents
    first = source.initial() if earlier is None else earlier
    maker = ChannelMaker(settings, space, run.encode, lambda: source.normal(0.0, 0.0), run.call)
    extra = extra_channels_of(manifest.extra_channel_specs, maker)
    latents = starting_latents(prepared.grid, first, clean, alone=noise_alone) if earlier is None else first
    keep = None if mask is None or clean is None else partial(keep_unmasked, mask, clean, first)
    # The Brownian path of the whole grid, so that its noise is the same at any strength.
    brownian = SAMPLERS[settings.schedule.sampler].noise == "brownian"
    noise = source.brownian(prepared.whole) if brownian else source.normal
    return Start(latents, noise, keep, extra, references_of(run, settings))


def references_of(run: Timed, settings: Settings) -> References | None:
    """The latents of the reference images, of which the first is one that is painted in; None without any."""
    pixels = [to_pixels(one) for one in settings.references.images]
    if settings.init_image and settings.init_image.shown:
        pixels.insert(0, settings.init_image.pixels(settings.width, settings.height))
    return References.of([run.encode(one)[0] for one in pixels]) if pixels else None


def clean_latents(run: Timed, prepared: Prepared, source: NoiseSource) -> Array | None:
    """The latents of the init image, one per image of the batch; None for a run from noise."""
    settings = prepared.settings
    if settings.upscaled is not None:
        return settings.upscaled.latents
    if settings.init_image is None:
        return None
    with run.phase("image"):
        pixels = settings.init_image.pixels(settings.width, settings.height)
    mean, deviation = run.encode(pixels)
    noise = source.normal(0.0, 0.0) if settings.init_image.posterior == "sample" else None
    return sample_posterior(mean, deviation, noise, len(settings.seeds))


def denoise(run: Timed, prepared: Prepared, encoded: Encoded, start: Start) -> Iterator[Step]:
    """The sampler's steps."""
    manifest, grid = run.components.bundle.manifest, prepared.grid
    sampler = prepared.settings.schedule.sampler_steps
    sampler = inpainting(sampler, start.keep) if start.keep else sampler
    denoiser = Denoiser(
        run.call,
        manifest,
        encoded.inputs,
        encoded.guidance,
        PREDICTIONS[manifest.noise_schedule.prediction],
        prepared.split,
        extra_channels=start.extra_channels,
        controls=encoded.controls,
        references=start.references,
        cache=StepCache(prepared.cache) if prepared.cache else None,
    )
    with run.phase("sampler"):
        steps = sampler(in_tiles(denoiser, prepared, manifest.latents.factor), start.latents, grid, start.noise)
    tiny = TINY_DECODER in manifest.components
    preview = partial(run.components.decode, decoder=TINY_DECODER) if tiny else None
    for index in range(len(grid.sigmas)):
        denoiser.step = prepared.first + index
        with run.phase("sampler"):
            latents, denoised = next(steps)
        timestep, sigma = float(grid.timesteps[index]), float(grid.sigmas[index])
        number = prepared.before + index
        cached = denoiser.cache is not None and not denoiser.cache.full
        made = number, prepared.total, timestep, sigma, latents, denoised
        yield Step(*made, manifest.latents.to_rgb, preview, cached)


def in_tiles(denoiser: Denoiser, prepared: Prepared, pixels: int) -> Denoise:
    """The denoiser, tiled if the settings have tiles. pixels: per latent, along a side."""
    settings = prepared.settings
    tiles = settings.tiling.tiles(settings.width, settings.height, pixels)
    return tiled(denoiser, tiles) if tiles else denoiser


def decode(run: Timed, prepared: Prepared, latents: Array) -> tuple[Image, ...]:
    """The pictures of latents; with `overlay`, pixels outside a mask are the init image's."""
    settings, manifest = prepared.settings, run.components.bundle.manifest
    space, to_pixels = manifest.latents, partial(run.decode, decoder=settings.decoder)
    if manifest.upscales:
        to_pixels = partial(decoded_in_tiles, to_pixels, pixels=space.factor)
        if len(decoder_tiles(*latents.shape[-2:])) > 1:  # the decoder's arena grows with its calls: free the others
            run.components.unload()
    with run.phase(settings.decoder):
        pixels = decoded(to_pixels, latents, space.factor, settings.tiling.seamless)
    run.release(prepared.plan)
    with run.phase("image"):
        images = to_images(pixels)
        return tuple(map(settings.init_image.paste_back, images)) if settings.init_image else images
