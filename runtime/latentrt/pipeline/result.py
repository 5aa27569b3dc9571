"""Steps and results of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from latentrt.images.pillow import preview_image, to_images
from latentrt.request.settings import Settings
from latentrt.tensors import Array

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentrt.lora.weights import Applied
    from latentrt.pipeline.metadata import Provenance


@dataclass(frozen=True)
class Step:
    """The state after one step.

    index: from 0. total: number of steps of the run. timestep, sigma: of the model's call. latents: (batch, channels,
    rows, columns) float32 after the step. denoised: the model's estimate of the clean latents, of the same shape.
    to_rgb, decode: for previews: rows of a linear map, and the tiny decoder. cached: whether the step's last call took
    what an earlier one left, instead of computing the whole denoiser.
    """

    index: int
    total: int
    timestep: float
    sigma: float
    latents: Array = field(repr=False)
    denoised: Array = field(repr=False)
    to_rgb: tuple[tuple[float, float, float], ...] = field(repr=False)
    decode: Callable[[Array], Array] | None = field(default=None, repr=False)
    cached: bool = False

    def preview(self, image: int = 0) -> Image:
        """A preview of one image of the batch, from the clean estimate.

        By the bundle's tiny decoder at full size, if there is one; else by a linear map at an eighth of the size, in
        under a millisecond.
        """
        if self.decode is not None:
            return to_images(self.decode(self.denoised[image][None]))[0]
        return preview_image(self.denoised[image], self.to_rgb)


@dataclass(frozen=True)
class Result:
    """The images of a run, with its settings, engine and bundle.

    images: RGB Pillow images. seeds: one per image. bundle: its name. sha256: of its manifest. loras: the files added
    to its weights. timings: seconds by phase. A component's name is the phase of its calls; "prompt" is the parsing of
    prompts, "sampler" the work of steps outside the UNet, noise and guidance included, "image" the conversion between
    pixels and pictures.
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
        """One seed per image; the same seed, settings and bundle give the same image again."""
        return self.settings.seeds

    def save(self, path: str | Path, image: int = 0, *, metadata: bool = True, mark: bool = True) -> None:
        """Writes one image, whole or not at all. metadata: include the settings, to make the image again.
        mark: include XMP that says that the image was generated (IPTC's digital source type).

        The suffix gives the format: PNG (also without a suffix), JPEG of quality 95, or lossless WebP. Raises
        RequestError for another suffix, OutputError if the file cannot be written.
        """
        from latentrt.pipeline.metadata import picture_text, save_with_text

        text = picture_text(self.settings, image, self.provenance(), metadata=metadata, mark=mark)
        save_with_text(self.images[image], Path(path), text)

    def provenance(self) -> Provenance:
        """What made the images."""
        from latentrt.pipeline.metadata import Provenance

        return Provenance(self.engine, self.bundle, self.sha256, self.loras)
