"""A bundle's autoencoder alone: pictures to latents and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from latentrt.bundle.tasks import DECODER, ENCODER
from latentrt.errors import BundleError
from latentrt.images.load import open_image
from latentrt.images.pillow import to_images, to_pixels
from latentrt.pipeline.components import Components
from latentrt.tensors import Array
from latentrt.validate import side

if TYPE_CHECKING:
    from PIL.Image import Image


class Codec:
    """The first stage of a bundle: KL autoencoders (the mean of their posterior) and VQ ones (quantized in `decode`).

    components: a loaded bundle; only its encoder, decoder and quantizer are loaded. Raises BundleError for one without.

    >>> Codec(latentrt.load("emoji")).round_trip("photo.png").save("decoded.png")  # doctest: +SKIP
    """

    def __init__(self, components: Components) -> None:
        manifest = components.bundle.manifest
        if missing := {ENCODER, DECODER} - manifest.components.keys():
            raise BundleError(
                f"{manifest.name}: got no {' nor '.join(sorted(missing))}, expected both to encode and decode; export "
                "the model again with `latentrt export`"
            )
        self.components = components

    def encode(self, image: str | Path | Image) -> Array:
        """Latents of unit variance, (1, channels, rows, columns) float32, of a picture or its file.

        Those of a VQ model are not quantized yet, as diffusion models take them. Raises RequestError for sides that
        are no multiples of the pixels per latent.
        """
        picture, factor = open_image("image", image), self.components.bundle.manifest.latents.factor
        for name, pixels in (("image's width", picture.width), ("image's height", picture.height)):
            side(name, pixels, factor)
        return self.components.encode(to_pixels(picture))[0]

    def decode(self, latents: Array) -> Image:
        """The picture of one image's latents, (1, channels, rows, columns)."""
        return to_images(self.components.decode(latents))[0]

    def round_trip(self, image: str | Path | Image) -> Image:
        """The picture as the autoencoder gives it back."""
        return self.decode(self.encode(image))
