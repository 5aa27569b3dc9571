"""Reference images of models that edit: which, and at which size they are seen.

All as in diffusers 0.42.1's Flux2KleinPipeline and its image processor, which cut the sides of an image to multiples,
and scale one of more than a megapixel down first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from latentrt.bundle.manifest import Manifest
from latentrt.errors import RequestError
from latentrt.images.load import open_image
from latentrt.images.pillow import digest
from latentrt.request.request import Request
from latentrt.validate import is_list, shown

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_REFERENCES = 10
# Pixels beyond which an image is scaled down, and the least side and the longest shape of one.
MOST_PIXELS, LEAST_SIDE, LONGEST = 1024 * 1024, 64, 8


@dataclass(frozen=True)
class ReferencesSpec:
    """The reference images, RGB, cut to the size at which they are seen. given: as they were before, for records."""

    images: tuple[Image, ...] = field(default=(), repr=False)
    given: tuple[Image, ...] = field(default=(), repr=False)

    def record(self) -> dict[str, Any]:
        """The field of the request that makes this again; images by their hash. Nothing without any."""
        return {"references": [digest(one) for one in self.given]} if self.given else {}


def resolve_references(request: Request, manifest: Manifest) -> ReferencesSpec:
    """The request's reference images, opened. Raises RequestError for a model that takes none, and other images."""
    given = request.references
    if not is_list(given):
        raise RequestError(f"references: got {shown(given)}, expected a list of images or their files")
    if not given:
        return ReferencesSpec()
    if not manifest.takes_references:
        raise RequestError(f"references: got some, but {manifest.name} takes no reference images; leave them out")
    if len(given) > MOST_REFERENCES:
        raise RequestError(f"references: got {len(given)}, expected at most {MOST_REFERENCES}")
    if "vae_encoder" not in manifest.components:
        raise RequestError(f"references: {manifest.name} has no vae_encoder; export it anew with `latentrt export`")
    images = tuple(open_image(f"reference {place}", one) for place, one in enumerate(given, start=1))
    multiple = manifest.latents.pixel_multiple
    return ReferencesSpec(tuple(seen(place, one, multiple) for place, one in enumerate(images, start=1)), images)


def seen(place: int, image: Image, multiple: int) -> Image:
    """An image at the size at which it is seen. place: its number, for messages. Raises RequestError."""
    from PIL.Image import Resampling

    width, height = image.size
    if min(width, height) < LEAST_SIDE or max(width, height) > LONGEST * min(width, height):
        raise RequestError(
            f"reference {place}: got {width}x{height} pixels, expected sides of at least {LEAST_SIDE}, the longer one "
            f"at most {LONGEST} times the other"
        )
    if width * height > MOST_PIXELS:
        scale = math.sqrt(MOST_PIXELS / (width * height))
        image = image.resize((int(width * scale), int(height * scale)), Resampling.LANCZOS)
    width, height = (side // multiple * multiple for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
