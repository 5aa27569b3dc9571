"""What each step of a run shows, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from latentrt.images.pillow import preview_image, save_picture, to_images
from latentrt.request.settings import Settings
from latentrt.tensors import Array

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentrt.lora.weights import Applied


@dataclass(frozen=True)
class Step:
    """The state after one step.

    index: from 0. total: the number of steps taken. timestep, sigma: where the model was called. latents: (batch,
    channels, rows, columns) float32 after the step. denoised: the model's clean estimate, the same shape. to_rgb,
    decode: what previews are made with.
    """

    index: int
    total: int
    timestep: float
    sigma: float
    latents: Array = field(repr=False)
    denoised: Array = field(repr=False)
    to_rgb: tuple[tuple[float, float, float], ...] = field(repr=False)
    decode: Callable[[Array], Array] | None = field(default=None, repr=False)

    def preview(self, image: int = 0) -> Image:
        """The clean estimate of one image of the batch.

        By the bundle's tiny decoder at its full size, where it has one; else by a linear map, an eighth of its size, in
        under a millisecond.
        """
        if self.decode is not None:
            return to_images(self.decode(self.denoised[image][None]))[0]
        return preview_image(self.denoised[image], self.to_rgb)


@dataclass(frozen=True)
class Result:
    """The images of a run and how they came about.

    images: RGB Pillow images. seeds: one an image. bundle: its name. sha256: its manifest's. loras: what was added to
    its weights.
    timings: seconds by phase. A component's name is the time of its calls; besides, "prompt" is the reading of texts,
    "sampler" what a step does outside the UNet, noise and guidance included, "image" the way from pixels to pictures
    and back.
    """

    images: tuple[Image, ...]
    settings: Settings
    timings: Mapping[str, float]
    engine: str
    bundle: str
    sha256: str
    loras: tuple[Applied, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """One seed an image: the same seed, settings and bundle give the same image again."""
        return self.settings.seeds

    def save(self, path: str | Path, image: int = 0, *, metadata: bool = True) -> None:
        """Writes one image, whole or not at all; with what is needed to make it again unless told otherwise.

        The name's ending says the format: PNG (also without one), JPEG of quality 95, or lossless WebP. Raises
        RequestError for another ending, OutputError when it cannot be written there.
        """
        from latentrt.pipeline.metadata import LATENTRT, Provenance, picture_text

        provenance = Provenance(self.engine, self.bundle, self.sha256, self.loras)
        text = picture_text(self.settings, image, provenance) if metadata else {}
        save_picture(self.images[image], Path(path), text, f"{LATENTRT}\0{text.get(LATENTRT)}".encode())
