"""Inpainting masks: the repainted pixels, and pasting the result back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from latentrt.images.pillow import digest, resized

if TYPE_CHECKING:
    from PIL.Image import Image


WHITE = 128  # the smallest grey value, of 255, that is repainted


Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Mask:
    """Inpainting mask; see `Request`. image: grey, of the image's size, already blurred.

    given: False for a mask that was made because the image was extended.
    """

    image: Image = field(repr=False)
    blur: float = 0.0
    padding: int | None = None
    overlay: bool = False
    given: bool = True

    def region(self, width: int, height: int) -> Box | None:
        """The box (left, top, right, bottom) of the image that is generated at this size; None for the whole image."""
        return None if self.padding is None else region(self.image, width / height, self.padding)

    def pasted(self, fit_to: Callable[[Image, int, int], Image], init: Image, image: Image) -> Image:
        """A generated image pasted into the init image; pixels outside the mask are the init image's.

        fit_to: the function that resizes the init image to the generated one's size.
        """
        from PIL import Image as images

        box = self.region(*image.size)
        if box is None and not self.overlay:
            return image
        if box is None:
            return images.composite(image, fit_to(init, *image.size), fit_to(self.image, *image.size))
        left, top, right, bottom = box
        base = init.copy()
        base.paste(resized(image, right - left, bottom - top, "crop"), (left, top))
        return images.composite(base, init, self.image)

    def record(self) -> dict[str, Any]:
        """Metadata of the mask, JSON-serializable."""
        return {
            **({"mask": digest(self.image)} if self.given else {}),
            "mask_blur": self.blur,
            "mask_padding": self.padding,
            "overlay": self.overlay,
        }


def region(mask: Image, ratio: float, padding: int) -> Box:
    """The box around all that is not black, `padding` pixels wider, widened to a ratio of width to height if possible.

    As diffusers 0.42.1's VaeImageProcessor.get_crop_region, which is AUTOMATIC1111's.
    """
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    left, top = max(left - padding, 0), max(top - padding, 0)
    right, bottom = min(right + padding, mask.width), min(bottom + padding, mask.height)
    width, height = right - left, bottom - top
    if width / height > ratio:
        top, bottom = widened(top, bottom, int(width / ratio - height), mask.height)
    else:
        left, right = widened(left, right, int(height * ratio - width), mask.width)
    return left, top, right, bottom


def widened(low: int, high: int, more: int, limit: int) -> tuple[int, int]:
    """The interval, longer by `more`, moved to lie between 0 and `limit`, and cut if it is longer than that."""
    low, high = low - more // 2, high + more - more // 2
    if high >= limit:
        low, high = low - (high - limit), limit
    if low < 0:
        low, high = 0, high - low
    return low, min(high, limit)
