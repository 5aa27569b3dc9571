"""Super-resolution of pictures of any size: padded by reflection, in tiles, cropped; transparency is enlarged apart.

Noise is drawn for the whole picture, and the denoiser's tiles are averaged at every step (`latentrt.sampling.tiling`),
so the order of the tiles does not matter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentrt.bundle.manifest import Manifest
from latentrt.engines import Engine
from latentrt.engines.keeping import keep
from latentrt.errors import RequestError
from latentrt.images.colours import with_colours_of
from latentrt.images.load import open_image
from latentrt.images.pillow import digest, reflected
from latentrt.pipeline.metadata import record_of, save_with_text, texts_of
from latentrt.pipeline.prepare import prepare
from latentrt.pipeline.result import Result
from latentrt.request.request import Request
from latentrt.sampling.tiling import decoder_tiles
from latentrt.tensors import Array, Tensor
from latentrt.validate import or_default, shown, side, whole

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentrt.pipeline.pipeline import Pipeline

# The part of a tile that it shares with the next one: a quarter.
OVERLAP = 4
MOST_TIMES = 4
DECODER = "vae_decoder"
# Fields of a request that are made here of the picture, or that say which picture is made.
REFUSED = (
    *("init", "extend", "mask", "width", "height", "window", "stride", "seamless", "batch", "hires"),
    *("start", "end", "latents"),
)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Upscaled:
    """An enlarged picture.

    image: RGB, or RGBA for a picture with transparency. result: of the last pass, whose picture is padded. source: the
    picture's size and hash. tile: in pixels of a pass's input. keep_colours: as of `upscale`.
    """

    image: Image
    result: Result
    source: Mapping[str, Any] = field(repr=False)
    tile: int
    times: int
    keep_colours: bool = False

    def save(self, path: str | Path, *, metadata: bool = True, mark: bool = True) -> None:
        """Writes the picture, whole or not at all, in the format of the name's ending; see `Result.save`.

        Raises RequestError for a JPEG of a picture with transparency.
        """
        check_format(Path(path), self.image)
        save_with_text(self.image, Path(path), texts_of(self.record(), metadata=metadata, mark=mark))

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of the last pass by phase, as `Result.timings`."""
        return dict(self.result.timings)

    def record(self) -> dict[str, Any]:
        """What the metadata says: the settings of the last pass, sizes and hash of the whole picture."""
        known = {"tile": self.tile, "times": self.times, "keep_colours": self.keep_colours, "init": self.source}
        record = record_of(self.result.settings, 0, self.result.provenance())
        return {**record, "width": self.image.width, "height": self.image.height, **known}


def upscale(
    pipeline: Pipeline,
    image: str | Path | Image,
    *,
    tile: int | None = None,
    times: int = 1,
    keep_colours: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Upscaled:
    """Returns the picture enlarged by a super-resolution bundle: by 4 for the latent diffusion paper's model.

    image: a picture or its file, of any size and mode. tile: the side of the square parts that the denoiser sees at
    once, in pixels of the picture; default: the model's training size. times: the number of passes, each of which
    enlarges the result of the one before. keep_colours: correct each pass's result, so that reduced it is the pass's
    input; the model's own result may have other colours. progress: called with the number of calls of the denoiser and
    the decoder that are done, and of all: one per tile and step, and one per tile decoded. options: those of `Request`,
    such as steps, sampler, eta, seed. Raises RequestError for another kind of bundle, for what is no image, and for
    options that ask for another picture; else as `Pipeline.steps`.
    """
    manifest = pipeline.bundle.manifest
    tile = tile_of(tile, manifest)
    for name in (name for name in REFUSED if name in options):
        raise RequestError(f"{name}: got {shown(options[name])}, expected options such as steps, sampler, eta or seed")
    times, factor = whole("times", times, 1, MOST_TIMES), manifest.latents.factor
    opened = open_image("image", image, "RGBA")
    picture = opened.convert("RGB")
    source, window = digest(picture), tile * factor
    request = Request(window=window, stride=stride_of(tile, manifest) * factor, **options)
    sizes = [(picture.width * factor**one, picture.height * factor**one) for one in range(times)]
    counted = with_progress(pipeline, progress, sum(calls_of(pipeline, request, size) for size in sizes))
    for width, height in sizes:
        run = counted.steps(replace(request, init=reflected(picture, manifest.latents.multiple)))
        deque(run, maxlen=0)
        made = run.result.images[0].crop((0, 0, width * factor, height * factor))
        picture = with_colours_of(made, picture) if keep_colours else made
    return Upscaled(with_alpha(picture, opened), run.result, source, tile, times, keep_colours)


def tile_of(tile: int | None, manifest: Manifest) -> int:
    """The side of tiles in pixels of the input. Raises RequestError for another kind of bundle or no multiple."""
    if not manifest.upscales:
        raise RequestError(
            f"bundle: got {manifest.name}, whose tasks are {', '.join(manifest.tasks)}; expected super-resolution: a "
            "bundle that `latentrt export` makes of such a model"
        )
    usual = min(manifest.defaults.width, manifest.defaults.height) // manifest.latents.factor
    return side("tile", or_default(tile, usual), manifest.latents.multiple)


def stride_of(tile: int, manifest: Manifest) -> int:
    """The distance from one tile to the next, in pixels of the input."""
    multiple = manifest.latents.multiple
    return max((tile - tile // OVERLAP) // multiple * multiple, multiple)


def calls_of(pipeline: Pipeline, request: Request, size: tuple[int, int]) -> int:
    """The number of calls of denoiser and decoder for a picture of that size; it is checked that it can be run."""
    from PIL import Image as images

    manifest = pipeline.bundle.manifest
    blank = reflected(images.new("RGB", size), manifest.latents.multiple)
    prepared = prepare(pipeline, replace(request, init=blank))
    calls = len(prepared.calls.sigmas)
    decoded = decoder_tiles(blank.height, blank.width)
    settings = prepared.settings
    tiles = settings.tiling.tiles(settings.width, settings.height, manifest.latents.factor)
    return calls * len(tiles) + len(decoded)


def with_progress(pipeline: Pipeline, progress: Progress | None, total: int) -> Pipeline:
    """The pipeline, which reports every call of its denoiser and its decoder."""
    if progress is None:
        return pipeline
    counter = Counter(progress, total)
    names = (pipeline.bundle.manifest.denoiser, DECODER)
    return pipeline.with_engines({name: Counted(pipeline.engines[name], counter.advance) for name in names})


@dataclass
class Counter:
    """Counts calls. A run that starts again, for lack of memory, repeats calls: never more than all are reported."""

    progress: Progress
    total: int
    done: int = 0

    def advance(self) -> None:
        """Counts one call and reports it."""
        self.done = min(self.done + 1, self.total)
        self.progress(self.done, self.total)


@dataclass(eq=False)
class Counted:
    """An engine that reports its calls when they are done."""

    engine: Engine
    advance: Callable[[], None]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The engine's outputs."""
        outputs = self.engine(feeds)
        self.advance()
        return outputs

    def keep(self, feeds: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
        """The engine's outputs, some of which stay on its device; see `keeping`."""
        outputs = keep(self.engine, feeds, names)
        self.advance()
        return outputs


def with_alpha(picture: Image, source: Image) -> Image:
    """The picture with the transparency of its RGBA source, enlarged by bicubic interpolation; itself for none."""
    from PIL.Image import Resampling

    if not has_alpha(source):
        return picture
    picture.putalpha(source.getchannel("A").resize(picture.size, Resampling.BICUBIC))
    return picture


def has_alpha(image: Image) -> bool:
    """Whether anything in the image is transparent."""
    return image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255)


def check_format(path: Path, image: Image) -> None:
    """Raises RequestError for a format that drops the image's transparency."""
    if path.suffix.lower() in (".jpg", ".jpeg") and has_alpha(image):
        raise RequestError(f"{path}: got a name of a JPEG for a picture with transparency, expected .png or .webp")
