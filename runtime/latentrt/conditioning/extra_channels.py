"""What some UNets are shown besides noisy latents, as further channels of their sample: inpainting, InstructPix2Pix.

As in diffusers 0.42.1's StableDiffusionInpaintPipeline with a UNet of 9 channels, Rombach et al. (2022), and its
StableDiffusionInstructPix2PixPipeline, Brooks et al. (2023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from latentrt.bundle.manifest import Latents, Shown
from latentrt.request.settings import Settings
from latentrt.sampling.start_latents import sample_posterior
from latentrt.tensors import Array

Encode = Callable[[Array], tuple[Array, Array]]
Draw = Callable[[], Array]


def shown_of(names: Sequence[Shown], settings: Settings, space: Latents, encode: Encode, draw: Draw) -> Array | None:
    """All that the UNet is shown at every step, (batch, channels, rows, columns) float32; None where that is nothing.

    encode: the mean and the deviation of latents of unit variance, from pixels. draw: the next normals of every image,
    for a masked image whose latents are drawn from the posterior. Without a mask, all of an image is masked; without an
    image, zeros stand for it.
    """
    kinds = {"mask": mask, "masked_image": masked_image, "image": image}
    batch = len(settings.seeds)
    found = [kinds[name](settings, space, encode, draw) for name in names]
    return np.concatenate([np.broadcast_to(one, (batch, *one.shape[1:])) for one in found], axis=1) if found else None


def mask(settings: Settings, space: Latents, _encode: Encode, _draw: Draw) -> Array:
    """1 where latents are painted, 0 where not."""
    width, height = settings.width, settings.height
    painted = settings.init_image.latent_mask(width, height, space.pixels) if settings.init_image else None
    if painted is None:
        painted = np.ones((1, 1, height // space.pixels, width // space.pixels), bool)
    return painted.astype(np.float32)


def masked_image(settings: Settings, _space: Latents, encode: Encode, draw: Draw) -> Array:
    """The latents of the image, grey where it is painted."""
    source, size = settings.init_image, (settings.width, settings.height)
    white = source.pixel_mask(*size) if source else None
    if source is None or white is None:
        pixels = np.zeros((1, 3, settings.height, settings.width), np.float32)
    else:
        pixels = np.where(white, np.float32(0), source.pixels(*size))
    mean, deviation = encode(pixels)
    noise = draw() if source and source.posterior == "sample" else None
    return sample_posterior(mean, deviation, noise, len(settings.seeds))


def image(settings: Settings, space: Latents, encode: Encode, _draw: Draw) -> Array:
    """The mean of the image's latents, not brought to unit variance."""
    if settings.init_image is None:
        rows, columns = settings.height // space.pixels, settings.width // space.pixels
        return np.zeros((1, space.channels, rows, columns), np.float32)
    mean, _ = encode(settings.init_image.pixels(settings.width, settings.height))
    return mean / np.float32(space.scaling)


def beside(sample: Array, shown: Array, *, bare: bool) -> Array:
    """The sample as the UNet takes it, with what it is shown, or zeros in its place, as its last channels."""
    more = np.zeros_like(shown) if bare else shown
    return np.concatenate([sample, more.astype(sample.dtype, copy=False)], axis=1)
