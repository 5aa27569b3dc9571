"""A bundle's autoencoder alone: pictures to latents and back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.bundle.tasks import DECODER, ENCODER
from latentrt.errors import BundleError, RequestError
from latentrt.images.load import open_image
from latentrt.images.pillow import to_images, to_pixels
from latentrt.pipeline.components import Components
from latentrt.sampling.tiling import OVERLAP, decoded_in_tiles, encoded_in_tiles
from latentrt.storage.npy import read_npy
from latentrt.tensors import Array
from latentrt.validate import shown, side

if TYPE_CHECKING:
    from PIL.Image import Image


class Codec:
    """The first stage of a bundle: KL autoencoders (the mean of their posterior) and VQ ones (quantized in `decode`).

    components: a loaded bundle; only its encoder, decoder and quantizer are loaded. tile: the side of the square parts
    that are encoded and decoded one by one, in pixels; None for the whole picture at once, whose attention takes memory
    by the square of its latents. Raises BundleError for a bundle without both halves, RequestError for a tile that is
    no multiple of the pixels per latent or that has fewer than four latents a side.

    >>> Codec(latentrt.load("emoji")).round_trip("photo.png").save("decoded.png")  # doctest: +SKIP
    """

    def __init__(self, components: Components, *, tile: int | None = None) -> None:
        manifest = components.bundle.manifest
        if missing := {ENCODER, DECODER} - manifest.components.keys():
            raise BundleError(
                f"{manifest.name}: got no {' nor '.join(sorted(missing))}, expected both to encode and decode; export "
                "the model again with `latentrt export`"
            )
        self.components, self.space = components, manifest.latents
        self.tile = None if tile is None else tile_of(tile, self.space.factor)

    def encode(self, image: str | Path | Image) -> Array:
        """Latents of unit variance, (1, channels, rows, columns) float32, of a picture or its file.

        Those of a VQ model are not quantized yet, as diffusion models take them. Raises RequestError for sides that
        are no multiples of the pixels per latent.
        """
        picture, factor = open_image("image", image), self.space.factor
        for name, pixels in (("image's width", picture.width), ("image's height", picture.height)):
            side(name, pixels, factor)
        if self.tile is None:
            return self._mean(to_pixels(picture))
        return encoded_in_tiles(self._mean, to_pixels(picture), factor, self.tile)

    def decode(self, latents: str | Path | Array) -> Image:
        """The picture of one image's latents, (1, channels, rows, columns), or of their .npy file.

        Raises RequestError for anything else.
        """
        given = checked(latents, self.space.channels)
        if self.tile is None:
            return to_images(self.components.decode(given))[0]
        return to_images(decoded_in_tiles(self.components.decode, given, self.space.factor, self.tile))[0]

    def round_trip(self, image: str | Path | Image) -> Image:
        """The picture as the autoencoder gives it back."""
        return self.decode(self.encode(image))

    def _mean(self, pixels: Array) -> Array:
        return self.components.encode(pixels)[0]


def tile_of(pixels: int, factor: int) -> int:
    """The side of tiles in latents. Raises RequestError."""
    tile = side("tile", pixels, factor) // factor
    if tile < OVERLAP:
        raise RequestError(f"tile: got {pixels}, expected at least {OVERLAP * factor}")
    return tile


def checked(latents: Any, channels: int) -> Array:
    """The latents in float32. Raises RequestError for what are no latents of one image."""
    found = read_npy("latents", latents) if isinstance(latents, (str, os.PathLike)) else latents
    expected = f"floats of the shape (1, {channels}, rows, columns), or their .npy file"
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f":
        raise RequestError(f"latents: got {shown(found)}, expected {expected}")
    if found.ndim != 4 or found.shape[:2] != (1, channels) or not found.size:
        raise RequestError(f"latents: got the shape {found.shape}, expected {expected}")
    if not np.isfinite(found).all():
        raise RequestError("latents: got values that are not finite, expected those of `latentrt encode`")
    return found.astype(np.float32)
