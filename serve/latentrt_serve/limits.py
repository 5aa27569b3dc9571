"""The bounds of what a client may ask for, with their defaults: `latentrt serve` has an option for each."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from latentrt.errors import RequestError
from latentrt.request.request import Request
from latentrt.request.settings import Settings


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    pixels: of a picture, second pass included. steps: of all passes together. pictures: per request. prompt:
    characters. body: bytes of a request. image_pixels: of an image that a client sends.
    """

    pixels: int = 2048 * 2048
    steps: int = 150
    pictures: int = 4
    prompt: int = 10_000
    body: int = 32_000_000
    image_pixels: int = 4096 * 4096

    def check(self, settings: Settings) -> None:
        """Raises RequestError for settings beyond a bound."""
        self.check_pixels(pixels_of(settings))
        more = settings.hires.steps if settings.hires else 0
        asked = {
            "steps": (settings.steps + more, self.steps, "steps"),
            "batch": (len(settings.seeds), self.pictures, "pictures"),
            "prompt": (len(settings.text.prompt) + len(settings.text.negative), self.prompt, "characters"),
        }
        for name, (got, most, unit) in asked.items():
            if got > most:
                raise RequestError(f"{name}: got {got:,} {unit}, expected at most {most:,} on this server")

    def check_sizes(self, request: Request) -> None:
        """Raises RequestError for sides that make a picture of too many pixels, before any image has that size."""
        sides = [side for side in (request.width, request.height) if isinstance(side, int)]
        if len(sides) == 2:
            self.check_pixels(sides[0] * sides[1])
        border, image = request.extend, request.init
        if isinstance(border, list) and len(border) == 4 and isinstance(image, Image.Image):
            left, top, right, bottom = (side if isinstance(side, int) else 0 for side in border)
            self.check_pixels((image.width + left + right) * (image.height + top + bottom))

    def check_pixels(self, pixels: int) -> None:
        """Raises RequestError for a picture of too many pixels."""
        if pixels > self.pixels:
            raise RequestError(f"size: got {pixels:,} pixels, expected at most {self.pixels:,} on this server")


def pixels_of(settings: Settings) -> int:
    """The number of pixels of a picture, after the second pass if there is one."""
    scale = settings.hires.scale if settings.hires else 1.0
    return int(settings.width * scale) * int(settings.height * scale)
