"""Pictures for models whose denoiser is shown one: upscalers, inpainting models, InstructPix2Pix.

Their first convolution reads the picture's channels beside the latents, so ranges are those of real requests only if
every recorded run has a picture. Files of the user, or drawn ones: soft colours with a few hard edges and fine grain.
Brightness, contrast and detail differ from one to the next. Masks are always drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.bundle.manifest import Manifest
from latentrt.bundle.sources import LOW_RESOLUTION
from latentrt.errors import RequestError
from latentrt.images.load import open_image
from latentrt.images.pillow import PICTURES

if TYPE_CHECKING:
    from PIL.Image import Image

SHAPES = 6
# Grid of random colours that a drawn picture is enlarged from.
COLOURS = 4


def inits_in(path: Path | None, manifest: Manifest) -> tuple[str, ...]:
    """Returns the pictures in a folder, by name, or the file itself; none for None.

    Raises RequestError for a folder without pictures, and for a model that is shown none.
    """
    if path is None:
        return ()
    if not manifest.extra_channels:
        raise RequestError(f"--init: got {path}, but {manifest.name} is shown no picture; leave it out")
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    files = tuple(str(file) for file in found if file.suffix.lower() in PICTURES and file.is_file())
    if not files:
        raise RequestError(f"--init: got {path}, expected a picture or a folder of {', '.join(PICTURES)} files")
    return files


def init_fields(manifest: Manifest, seed: int, file: str | None, size: tuple[int, int]) -> dict[str, Any]:
    """The fields of a request that show the model a picture; none for a model that takes latents alone.

    seed: of the drawn picture and of the mask. file: the picture; None to draw one. size: of the request's picture, in
    pixels.
    """
    names, factor = manifest.extra_channels, manifest.latents.factor
    if not names:
        return {}
    width, height = (side // factor for side in size) if LOW_RESOLUTION in names else size
    init = drawn_picture(seed, width, height) if file is None else open_image("init", file)
    masked = {"mask": drawn_mask(seed, *init.size)} if "mask" in names else {}
    return {"init": init, "fit": "crop", "width": size[0], "height": size[1], **masked}


def chosen(files: Sequence[str], index: int) -> str | None:
    """The file of the picture at an index of a series; files repeat. None to draw one."""
    return files[index % len(files)] if files else None


def drawn_picture(seed: int, width: int, height: int) -> Image:
    """A picture that is always the same for a seed and a size, RGB."""
    from PIL import Image, ImageDraw

    random = np.random.default_rng(seed)
    colours = random.integers(0, 256, (COLOURS, COLOURS, 3), dtype=np.uint8)
    image = Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for number in range(int(random.integers(1, SHAPES + 1))):
        shape = draw.ellipse if number % 2 else draw.rectangle
        shape(box_in(random, width, height), fill=tuple(random.integers(0, 256, 3).tolist()))
    grain = random.normal(0, random.uniform(0, 12), (height, width, 3))
    contrast, offset = random.uniform(0.4, 1.2), random.uniform(-40, 40)
    pixels = (np.asarray(image, np.float64) - 128) * contrast + 128 + offset + grain
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def drawn_mask(seed: int, width: int, height: int) -> Image:
    """A mask that is always the same for a seed and a size: a box, an ellipse, or every fourth time all of it."""
    from PIL import Image, ImageDraw

    random = np.random.default_rng(seed)
    mask = Image.new("L", (width, height), 255 if seed % 4 == 3 else 0)
    draw = ImageDraw.Draw(mask)
    (draw.ellipse if seed % 2 else draw.rectangle)(box_in(random, width, height), fill=255)
    return mask


def box_in(random: np.random.Generator, width: int, height: int) -> list[int]:
    """Left, top, right and bottom of a random box, a quarter to three quarters of the sides."""
    sides = [max(1, int(side * random.uniform(0.25, 0.75))) for side in (width, height)]
    left, top = (int(random.integers(0, side - own + 1)) for side, own in zip((width, height), sides, strict=True))
    return [left, top, left + sides[0] - 1, top + sides[1] - 1]
