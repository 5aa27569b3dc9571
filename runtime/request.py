"""What a run is asked for, what each step of it shows, and what comes out."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from latentrt.errors import RequestError
from latentrt.image import preview_image, save_png
from latentrt.manifest import Manifest
from latentrt.samplers import SAMPLERS
from latentrt.schedule import SigmasName, Spacing
from latentrt.tensors import Array

if TYPE_CHECKING:
    from PIL.Image import Image

SIGMAS: tuple[SigmasName, ...] = ("normal", "karras")
SPACINGS: tuple[Spacing, ...] = ("leading", "trailing", "linspace")
LARGEST_SEED = 2**64 - 1
LARGEST_BATCH = 4096


@dataclass(frozen=True)
class Request:
    """What to generate. None means the bundle's default; for `seed`, one drawn at random.

    guidance: classifier-free guidance; at 1 and below the negative prompt is not used. seed: of the first image; image
    k has seed + k. width, height: pixels. spacing: how timesteps are laid out over the training schedule.
    """

    prompt: str
    negative: str = ""
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    sampler: str | None = None
    sigmas: SigmasName | None = None
    spacing: Spacing | None = None
    batch: int = 1


@dataclass(frozen=True)
class Settings:
    """A request with every choice made, checked against the bundle."""

    prompt: str
    negative: str
    steps: int
    guidance: float
    seeds: tuple[int, ...]
    width: int
    height: int
    sampler: str
    sigmas: SigmasName
    spacing: Spacing


def settle(request: Request, manifest: Manifest) -> Settings:
    """Returns `request` with the bundle's defaults filled in. Raises RequestError for what cannot be generated."""
    defaults = manifest.defaults
    steps = defaults.steps if request.steps is None else request.steps
    guidance = defaults.guidance if request.guidance is None else request.guidance
    width = defaults.width if request.width is None else request.width
    height = defaults.height if request.height is None else request.height
    sampler = defaults.sampler if request.sampler is None else request.sampler
    sigmas = defaults.sigmas if request.sigmas is None else request.sigmas
    spacing = manifest.schedule.spacing if request.spacing is None else request.spacing
    check_text("prompt", request.prompt)
    check_text("negative", request.negative)
    check_whole("steps", steps, 1, manifest.schedule.train_steps)
    check_whole("batch", request.batch, 1, LARGEST_BATCH)
    check_choice("sampler", sampler, tuple(SAMPLERS))
    check_choice("sigmas", sigmas, SIGMAS)
    check_choice("spacing", spacing, SPACINGS)
    if isinstance(guidance, bool) or not isinstance(guidance, (int, float)) or not math.isfinite(guidance):
        raise RequestError(f"guidance: got {guidance!r}, expected a finite number, for example {defaults.guidance}")
    return Settings(
        prompt=request.prompt,
        negative=request.negative,
        steps=steps,
        guidance=float(guidance),
        seeds=seeds_of(request),
        width=side("width", width, manifest.latents.pixels),
        height=side("height", height, manifest.latents.pixels),
        sampler=sampler,
        sigmas=sigmas,
        spacing=spacing,
    )


def seeds_of(request: Request) -> tuple[int, ...]:
    """One seed an image; drawn from the system when the request names none."""
    first = secrets.randbits(32) if request.seed is None else request.seed
    check_whole("seed", first, 0, LARGEST_SEED - request.batch + 1)
    return tuple(range(first, first + request.batch))


def side(name: str, pixels: int, multiple: int) -> int:
    """`pixels`, once known to be a positive multiple. Raises RequestError that names the nearest sizes."""
    check_whole(name, pixels, 1, None)
    if pixels % multiple:
        lower = pixels // multiple * multiple
        near = f"{lower} or {lower + multiple}" if lower else str(multiple)
        raise RequestError(f"{name}: got {pixels}, expected a multiple of {multiple}; the nearest are {near}")
    return pixels


def check_text(name: str, value: str) -> None:
    """Raises RequestError unless `value` is text that can be encoded; a byte that is no UTF-8 on the way in is not."""
    if not isinstance(value, str):
        raise RequestError(f"{name}: got {value!r}, expected text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{name}: got {value!r}, expected valid Unicode; check the terminal's encoding") from error


def check_whole(name: str, value: int, lowest: int, highest: int | None) -> None:
    """Raises RequestError unless `value` is a whole number in the range."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < lowest or (highest is not None and value > highest):
        limit = f"from {lowest} to {highest}" if highest is not None else f"of at least {lowest}"
        raise RequestError(f"{name}: got {value!r}, expected a whole number {limit}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises RequestError unless `value` is one of `choices`."""
    if value not in choices:
        raise RequestError(f"{name}: got {value!r}, expected one of {', '.join(choices)}")


@dataclass(frozen=True)
class Step:
    """The state after one step.

    index: from 0. total: the number of steps. timestep, sigma: where the model was called. latents: (batch, channels,
    rows, columns) float32 after the step. denoised: the model's clean estimate, the same shape.
    """

    index: int
    total: int
    timestep: float
    sigma: float
    latents: Array = field(repr=False)
    denoised: Array = field(repr=False)
    to_rgb: tuple[tuple[float, float, float], ...] = field(repr=False)

    def preview(self, image: int = 0) -> Image:
        """The clean estimate of one image of the batch, an eighth of its size, by a linear map: under a millisecond."""
        return preview_image(self.denoised[image], self.to_rgb)


@dataclass(frozen=True)
class Result:
    """The images of a run and how they came about.

    images: RGB Pillow images. seeds: one an image. timings: seconds by phase. bundle: its name. sha256: its manifest's.
    """

    images: tuple[Image, ...]
    settings: Settings
    timings: Mapping[str, float]
    engine: str
    bundle: str
    sha256: str

    @property
    def seeds(self) -> tuple[int, ...]:
        """One seed an image: the same seed, settings and bundle give the same image again."""
        return self.settings.seeds

    def save(self, path: str | Path, image: int = 0, *, metadata: bool = True) -> None:
        """Writes one image as PNG, whole or not at all; with what is needed to make it again unless told otherwise."""
        from latentrt.metadata import png_text

        save_png(self.images[image], Path(path), png_text(self, image) if metadata else {})


def with_seed(settings: Settings, image: int) -> Settings:
    """The settings that give one image of a batch by itself."""
    return replace(settings, seeds=(settings.seeds[image],))
