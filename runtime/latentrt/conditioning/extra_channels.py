"""Extra channels after the noisy latents (concat conditioning): inpainting models, InstructPix2Pix.

As in diffusers 0.42.1's StableDiffusionInpaintPipeline with a UNet of 9 channels, Rombach et al. (2022), and its
StableDiffusionInstructPix2PixPipeline, Brooks et al. (2023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from latentrt.bundle.manifest import Latents
from latentrt.bundle.sources import ExtraChannels, ExtraChannelsName
from latentrt.conditioning.text import Call
from latentrt.request.settings import Settings
from latentrt.sampling.start_latents import sample_posterior
from latentrt.tensors import Array

Encode = Callable[[Array], tuple[Array, Array]]
Draw = Callable[[], Array]


@dataclass(frozen=True)
class ChannelMaker:
    """All that extra channels are made of.

    encode: the mean and the deviation of latents of unit variance, from pixels. draw: the next normals of every image,
    for a masked image whose latents are sampled from the posterior. call: runs a component by name.
    """

    settings: Settings
    space: Latents
    encode: Encode
    draw: Draw
    call: Call


def extra_channels_of(specs: Sequence[ExtraChannels], maker: ChannelMaker) -> Array | None:
    """Returns the extra channels of all steps, (batch, channels, rows, columns) float32; None where there are none.

    Without a mask, all of the image is masked; without an image, zeros stand for it.
    """
    batch = len(maker.settings.seeds)
    found = [EXTRA_CHANNELS[spec.name](maker, spec) for spec in specs]
    return np.concatenate([np.broadcast_to(one, (batch, *one.shape[1:])) for one in found], axis=1) if found else None


def mask(maker: ChannelMaker, spec: ExtraChannels) -> Array:
    """The highest value of the range where latents are painted, the lowest elsewhere."""
    settings, factor = maker.settings, maker.space.factor
    width, height = settings.width, settings.height
    painted = settings.init_image.latent_mask(width, height, factor) if settings.init_image else None
    if painted is None:
        painted = np.ones((1, 1, height // factor, width // factor), bool)
    low, high = spec.range or (0.0, 1.0)
    return np.where(painted, np.float32(high), np.float32(low))


def masked_image(maker: ChannelMaker, spec: ExtraChannels) -> Array:
    """The latents of the image, grey where it is painted."""
    settings = maker.settings
    source, size = settings.init_image, (settings.width, settings.height)
    white = source.pixel_mask(*size) if source else None
    if source is None or white is None:
        pixels = np.full((1, 3, settings.height, settings.width), spec.fill, np.float32)
    else:
        pixels = np.where(white, np.float32(spec.fill), source.pixels(*size))
    mean, deviation = maker.encode(pixels)
    noise = maker.draw() if source and source.posterior == "sample" else None
    return sample_posterior(mean, deviation, noise, len(settings.seeds))


def image(maker: ChannelMaker, spec: ExtraChannels) -> Array:
    """The mean of the image's latents as the VAE has them, not of unit variance."""
    settings, space = maker.settings, maker.space
    if settings.init_image is None:
        rows, columns = settings.height // space.factor, settings.width // space.factor
        return np.zeros((1, space.channels, rows, columns), np.float32)
    mean, _ = maker.encode(settings.init_image.pixels(settings.width, settings.height))
    return space.for_vae(mean)


def low_resolution(maker: ChannelMaker, spec: ExtraChannels) -> Array:
    """The picture to upscale, in [-1, 1]: one pixel per latent."""
    settings, factor = maker.settings, maker.space.factor
    assert settings.init_image is not None  # `resolve_init_image` asks for one
    return settings.init_image.pixels(settings.width // factor, settings.height // factor)


def segmentation(maker: ChannelMaker, spec: ExtraChannels) -> Array:
    """The label map as the model's own encoder brings it to the latents' size."""
    found = maker.settings.segmentation
    assert found is not None  # `resolve_segmentation` asks for one
    return maker.call("segmentation_encoder", labels=found.labels[np.newaxis])["segmentation"]


EXTRA_CHANNELS: dict[ExtraChannelsName, Callable[[ChannelMaker, ExtraChannels], Array]] = {
    "mask": mask,
    "masked_image": masked_image,
    "image": image,
    "low_resolution": low_resolution,
    "segmentation": segmentation,
}


def concat_channels(sample: Array, extra: Array, *, dropped: bool) -> Array:
    """The sample with the extra channels, or zeros in their place, after its own."""
    more = np.zeros_like(extra) if dropped else extra
    return np.concatenate([sample, more.astype(sample.dtype, copy=False)], axis=1)
