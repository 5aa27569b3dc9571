"""The image that an unCLIP model varies, and the noise that is added to its embedding."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from latentrt.bundle.manifest import Manifest
from latentrt.errors import RequestError
from latentrt.images.load import open_image
from latentrt.images.pillow import digest, square_crop
from latentrt.request.request import Request
from latentrt.request.rows import checked, refuse_without
from latentrt.validate import shown

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class VariedImage:
    """An RGB image of any size, and the level of the noise in its embedding, from 0."""

    image: Image = field(repr=False)
    noise_level: int = 0

    def square(self, side: int) -> Image:
        """The image as CLIP sees it: a square of `side` pixels around the centre."""
        return square_crop(self.image, side)

    def record(self) -> dict[str, Any]:
        """The fields of the request that make this again; the image by its hash."""
        return {"image": digest(self.image), "noise_level": self.noise_level}


def resolve_varied_image(request: Request, manifest: Manifest) -> VariedImage | None:
    """The request's image, opened; None for a model that takes none. Raises RequestError."""
    embedding, given = manifest.image_embedding, request.image
    if embedding is None:
        if given is not None:
            raise RequestError(
                f"image: got {shown(given)}, but {manifest.name} makes no variations of images; give init to start "
                "from an image, or load an unCLIP model"
            )
        refuse_without("image", request)
        return None
    if given is None:
        raise RequestError(f"image: got none, but {manifest.name} draws variations of an image; give one")
    level = checked(request, "noise_level", highest=embedding.noise_levels - 1)
    return VariedImage(open_image("image", given), level)
