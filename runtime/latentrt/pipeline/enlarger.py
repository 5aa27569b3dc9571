"""Super-resolution in one call: a network of the user's, such as Real-ESRGAN (Wang et al. 2021), in an ONNX file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.engines import open_picture_graph
from latentrt.engines.kinds import AUTO
from latentrt.errors import EngineError
from latentrt.images.load import open_image
from latentrt.images.pillow import digest, to_images, to_unit_range
from latentrt.pipeline.metadata import save_with_text, texts_of
from latentrt.pipeline.upscale import MOST_TIMES, Counter, Progress, check_format, with_alpha
from latentrt.sampling.tiling import decoded_in_tiles, decoder_tiles
from latentrt.storage.hashes import sha256_of
from latentrt.tensors import Array
from latentrt.validate import or_default, side, whole
from latentrt.version import VERSION

if TYPE_CHECKING:
    from PIL.Image import Image

# Some networks fold or cut a picture into squares; sides of all of them are divisors of this one.
MULTIPLE = 16
TILE = 256


@dataclass(frozen=True)
class Enlarged:
    """An enlarged picture: RGB, or RGBA for one with transparency. seconds: of the network."""

    image: Image
    settings: Mapping[str, Any] = field(repr=False)
    seconds: Mapping[str, float] = field(repr=False)

    def record(self) -> dict[str, Any]:
        """What the metadata says: the network's file, its hash, sizes, and the hash of the picture that was given."""
        return dict(self.settings)

    def save(self, path: str | Path, *, metadata: bool = True, mark: bool = True) -> None:
        """Writes the picture, whole or not at all, in the format of the name's ending.

        metadata: with `record`. mark: with the note that a model made it. Raises RequestError for a JPEG of a picture
        with transparency.
        """
        check_format(Path(path), self.image)
        save_with_text(self.image, Path(path), texts_of(self.record(), metadata=metadata, mark=mark))


class Enlarger:
    """A network that enlarges pictures by a whole factor.

    path: an ONNX file with one input and one output of (1, 3, height, width), RGB in [0, 1], float32 or float16, with
    all its weights inside. engine: auto (the CPU), onnxruntime or cuda. Raises EngineError for another kind of file.

    >>> Enlarger("RealESRGAN_x4plus.onnx").enlarge("photo.jpg").save("large.png")  # doctest: +SKIP
    """

    def __init__(self, path: str | Path, engine: str = AUTO) -> None:
        self.path = Path(path)
        self.graph = open_picture_graph(self.path, engine)
        self.fixed = self.fixed_side()
        self.factor = self.measured_factor()

    def fixed_side(self) -> int | None:
        """The side of the squares that the network is fixed to; None if it takes any. Raises EngineError for others."""
        height, width = self.graph.sides
        if height != width:
            raise EngineError(
                f"{self.path}: got a network for pictures of {width or 'any width'} by {height or 'any height'}, "
                "expected one for squares or for any size"
            )
        return height

    def measured_factor(self) -> int:
        """Output pixels per input pixel, of a grey square. Raises EngineError if they are no whole number."""
        measured = self.fixed or 2 * MULTIPLE
        grey = np.full((1, 3, measured, measured), 0.5, np.float32)
        found = self.graph(grey).shape
        factor = int(found[-1]) // measured
        if found != (1, 3, factor * measured, factor * measured) or not factor:
            raise EngineError(
                f"{self.path}: got {'x'.join(map(str, found))} for a picture of {measured}x{measured}, expected "
                "(1, 3, height, width) with both sides a whole number of times as long"
            )
        return factor

    def enlarge(
        self,
        image: str | Path | Image,
        *,
        tile: int | None = None,
        times: int = 1,
        progress: Progress | None = None,
    ) -> Enlarged:
        """Returns the picture, `factor` times as large.

        image: a picture or its file, of any size and mode. tile: the side of the square parts that the network sees at
        once, in pixels of the picture, a multiple of 16; a quarter of each is shared with the next and blended. times:
        the number of passes. progress: called with the number of parts that are done, and of all. Raises RequestError
        for what is no image, EngineError if the network fails.
        """
        seen = self.tile_of(tile)
        times = whole("times", times, 1, MOST_TIMES)
        opened = open_image("image", image, "RGBA")
        source = opened.convert("RGB")
        sizes = [(source.width * self.factor**one, source.height * self.factor**one) for one in range(times)]
        counter = Counter(progress or ignored, sum(len(decoder_tiles(*self.padded(size), seen)) for size in sizes))
        pixels, started = to_unit_range(source), time.perf_counter()
        for _ in sizes:
            pixels = self.pass_over(pixels, seen, counter)
        seconds = {"network": time.perf_counter() - started}
        [picture] = to_images(2 * pixels - 1)
        settings = {
            "version": VERSION,
            "network": {"name": self.path.name, "sha256": sha256_of(self.path)},
            "engine": self.graph.engine,
            **{"width": picture.width, "height": picture.height, "tile": seen, "times": times, "init": digest(source)},
        }
        return Enlarged(with_alpha(picture, opened), settings, seconds)

    def tile_of(self, tile: int | None) -> int:
        """The side of tiles in pixels. Raises RequestError for another one than a network is fixed to."""
        if self.fixed is not None:
            return side("tile", or_default(tile, self.fixed), self.fixed)
        return side("tile", or_default(tile, TILE), MULTIPLE)

    def padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the input for a picture of width and height: multiples, and a whole tile at least."""
        width, height = size
        multiple = 1 if self.fixed else MULTIPLE
        return max(height + -height % multiple, self.fixed or 1), max(width + -width % multiple, self.fixed or 1)

    def pass_over(self, pixels: Array, tile: int, counter: Counter) -> Array:
        """The pixels enlarged once, clipped to [0, 1]. Sides are extended by reflection, and the result is cropped."""
        height, width = pixels.shape[-2:]
        rows, columns = self.padded((width, height))
        whole_input = np.pad(pixels, ((0, 0), (0, 0), (0, rows - height), (0, columns - width)), "symmetric")

        def counted(part: Array) -> Array:
            found = self.graph(part)
            counter.advance()
            return found

        found = decoded_in_tiles(counted, whole_input, self.factor, tile)
        return found[..., : height * self.factor, : width * self.factor].clip(0, 1)


def ignored(done: int, total: int) -> None:
    """Progress that nobody asked for."""
