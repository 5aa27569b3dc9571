"""Settings: a request with every choice made, once it is known that the bundle can run it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from latentrt.bundle.manifest import Manifest
from latentrt.bundle.tasks import TINY_DECODER
from latentrt.errors import RequestError
from latentrt.request.controls import ControlsSpec, check_padding, resolve_controls
from latentrt.request.denoising_range import DenoisingRange, resolve_denoising_range
from latentrt.request.guidance import GuidanceSpec, resolve_guidance
from latentrt.request.hires import Hires, UpscaledLatents, resolve_hires
from latentrt.request.image_embedding import EmbeddingSpec, resolve_image_embedding
from latentrt.request.init_image import InitImage, resolve_init_image
from latentrt.request.model_inputs import ModelInputs, resolve_model_inputs
from latentrt.request.noise import noise_record, resolve_noise
from latentrt.request.presets import with_preset
from latentrt.request.references import ReferencesSpec, resolve_references
from latentrt.request.request import Request
from latentrt.request.rows import checked
from latentrt.request.schedule import ScheduleSpec, resolve_schedule
from latentrt.request.segmentation import Segmentation, resolve_segmentation
from latentrt.request.size import followed_size, resolve_size
from latentrt.request.step_cache import StepCacheSpec, resolve_step_cache
from latentrt.request.text import TextSpec, resolve_text
from latentrt.request.tiling import Tiling, resolve_tiling
from latentrt.sampling.noise.source import NoiseSpec
from latentrt.sampling.schedule import NoiseSchedule


@dataclass(frozen=True)
class Settings:
    """A request with every choice made, a spec per subject, each resolved by its own module.

    width, height: pixels. init_image, segmentation, image_embedding, hires: None where the run has none. upscaled: the
    latents that a second pass starts from. step_cache: None where every call is full. fast_decode: the tiny decoder
    makes the picture.
    """

    text: TextSpec
    schedule: ScheduleSpec
    guidance: GuidanceSpec
    noise: NoiseSpec
    width: int
    height: int
    model_inputs: ModelInputs = ModelInputs()
    init_image: InitImage | None = None
    controls: ControlsSpec = ControlsSpec()
    tiling: Tiling = Tiling()
    denoising_range: DenoisingRange = DenoisingRange()
    segmentation: Segmentation | None = None
    image_embedding: EmbeddingSpec | None = None
    hires: Hires | None = None
    upscaled: UpscaledLatents | None = None
    step_cache: StepCacheSpec | None = None
    fast_decode: bool = False
    references: ReferencesSpec = ReferencesSpec()

    @property
    def steps(self) -> int:
        """The number of steps of the whole schedule."""
        return self.schedule.length

    @property
    def seeds(self) -> tuple[int, ...]:
        """One seed per image."""
        return self.noise.seeds

    @property
    def scales(self) -> tuple[float, ...]:
        """The guidance scale at each step."""
        return self.guidance.scales(self.steps)

    @property
    def decoder(self) -> str:
        """The component that makes the picture."""
        return TINY_DECODER if self.fast_decode else "vae_decoder"

    @property
    def skipped(self) -> int:
        """The number of steps at the front that are not taken, because the run starts from an image."""
        start = self.init_image or self.upscaled
        return start.skipped(self.steps) if start else 0

    def noise_schedule(self, manifest: Manifest) -> NoiseSchedule:
        """The model's schedule for the size and the steps of this run."""
        latents = (self.width // manifest.latents.factor) * (self.height // manifest.latents.factor)
        return manifest.noise_schedule.for_size(latents, self.schedule.steps)

    def of_image(self, image: int) -> Settings:
        """The settings that make one image of the batch by itself."""
        return replace(self, noise=self.noise.of_image(image))

    def record(self) -> dict[str, Any]:
        """All fields of the request that make this again, as JSON can hold them; images and latents by their hash."""
        found = self.text.record() | noise_record(self.noise)
        found |= {"width": self.width, "height": self.height, "fast_decode": self.fast_decode}
        specs = (self.schedule, self.guidance, self.model_inputs, self.tiling, self.hires, self.denoising_range)
        images = (self.init_image, self.segmentation, self.image_embedding, self.controls, self.references)
        for spec in (*specs, *images, self.step_cache):
            found |= spec.record() if spec else {}
        return found

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """The flat names that earlier versions had, for a release; `record` has them all."""
            found = {} if name.startswith("_") else self.record()
            if name not in found:
                raise AttributeError(f"Settings has no attribute {name!r}")
            return found[name]


def guided(settings: Settings, manifest: Manifest) -> bool:
    """True where a step calls the denoiser on the negative prompt too.

    A model that takes the guidance scale as an input is not guided so.
    """
    return guides(settings.guidance, settings.steps, manifest)


def guides(guidance: GuidanceSpec, steps: int, manifest: Manifest) -> bool:
    """As `guided`, before there are settings."""
    return not manifest.embeds_guidance and max(guidance.scales(steps)) > 1


def resolve(request: Request, manifest: Manifest, loras: Iterable[str] = ()) -> Settings:
    """The request with the bundle's defaults filled in. Raises RequestError for what cannot be generated.

    loras: names of the files that are added to the weights; some bring settings, see `few_step`.
    """
    request = with_preset(request, manifest, loras)
    pixels = manifest.latents.factor
    schedule = resolve_schedule(request, manifest)
    init_image = resolve_init_image(request, manifest)
    part = resolve_denoising_range(request, manifest.latents.channels)
    controls = resolve_controls(request, manifest)
    segmentation = resolve_segmentation(request, manifest)
    followed = ("segmentation", segmentation.size) if segmentation else None
    references = resolve_references(request, manifest)
    followed = followed or followed_size(init_image, part, controls.images, pixels)
    if followed is None and references.images:
        followed = "reference 1", references.images[0].size
    size = resolve_size(request, manifest, followed)
    if segmentation and segmentation.size != size:
        got, wanted = ("x".join(map(str, one)) for one in (segmentation.size, size))
        raise RequestError(f"segmentation: got {got} pixels, expected {wanted}, the size of the picture")
    if part.latents is not None and part.size(pixels) != size:
        raise RequestError(f"latents: got those of {part.size(pixels)} pixels, expected {size}")
    if init_image:
        init_image.skipped(schedule.length)
    check_padding(controls, init_image)
    width, height = size
    guidance = resolve_guidance(request, manifest, schedule.length)
    return Settings(
        resolve_text(request, manifest),
        schedule,
        guidance,
        resolve_noise(request),
        width,
        height,
        resolve_model_inputs(request, manifest, size),
        init_image,
        controls,
        resolve_tiling(request, manifest),
        part,
        segmentation,
        resolve_image_embedding(request, manifest),
        resolve_hires(request, manifest, schedule.steps),
        step_cache=resolve_step_cache(request, manifest, guided=guides(guidance, schedule.length, manifest)),
        fast_decode=resolve_fast_decode(request, manifest),
        references=references,
    )


def resolve_fast_decode(request: Request, manifest: Manifest) -> bool:
    """True for the tiny decoder. Raises RequestError where the bundle has none."""
    fast: bool = checked(request, "fast_decode")
    if fast and TINY_DECODER not in manifest.components:
        raise RequestError(
            f"fast_decode: got True, but {manifest.name} has no {TINY_DECODER}; leave it out, or export the model "
            "again with `latentrt export --tiny-decoder PATH`"
        )
    return fast
