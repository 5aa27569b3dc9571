"""Pictures to arrays, and arrays to pictures and files."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from latentrt.errors import RequestError
from latentrt.images import exif, xmp
from latentrt.storage.atomic import output_file
from latentrt.tensors import Array

if TYPE_CHECKING:
    from PIL.Image import Image


log = logging.getLogger(__name__)


def to_images(pixels: Array) -> tuple[Image, ...]:
    """RGB images from (batch, 3, height, width) in [-1, 1]; rounded to 8 bits as diffusers' VaeImageProcessor does."""
    from PIL import Image

    scaled = np.clip(pixels.astype(np.float32) / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
    return tuple(Image.fromarray(image) for image in (scaled * 255).round().astype(np.uint8))


def resized(image: Image, width: int, height: int, fit: str = "stretch") -> Image:
    """The image at this size: stretched, or, for "crop", scaled to cover the size and cropped around the centre.

    By Lanczos, and to the pixel as diffusers 0.42.1's VaeImageProcessor with resize_mode "default" and "crop".
    """
    from PIL.Image import Resampling

    if fit == "stretch":
        return image.resize((width, height), Resampling.LANCZOS)
    wider = width / height > image.width / image.height
    scaled_width = width if wider else image.width * height // image.height
    scaled_height = image.height * width // image.width if wider else height
    scaled = image.resize((scaled_width, scaled_height), Resampling.LANCZOS)
    left, top = scaled_width // 2 - width // 2, scaled_height // 2 - height // 2
    return scaled.crop((left, top, left + width, top + height))


def square_crop(image: Image, side: int) -> Image:
    """The image with its shorter side at `side`, cropped to a square around the centre, for CLIP's image encoders.

    Bicubic, and to the pixel as transformers 5.23's CLIPImageProcessor.
    """
    from PIL.Image import Resampling

    width, height = (max(side, int(side * old / min(image.size))) for old in image.size)
    scaled = image.resize((width, height), Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    return scaled.crop((left, top, left + side, top + side))


def filled(image: Image, width: int, height: int) -> Image:
    """The image scaled to fit into this size, centred; its outermost rows or columns fill the rest.

    To the pixel as diffusers 0.42.1's VaeImageProcessor with resize_mode "fill".
    """
    from PIL import Image as images

    ratio, old_ratio = width / height, image.width / image.height
    scaled_width = width if ratio < old_ratio else max(1, image.width * height // image.height)
    scaled_height = height if ratio >= old_ratio else max(1, image.height * width // image.width)
    scaled = image.resize((scaled_width, scaled_height), images.Resampling.LANCZOS)
    canvas = images.new(image.mode, (width, height))
    left, top = width // 2 - scaled_width // 2, height // 2 - scaled_height // 2
    canvas.paste(scaled, (left, top))
    if ratio < old_ratio and top:
        for row, y in ((0, 0), (scaled_height, top + scaled_height)):
            canvas.paste(scaled.resize((width, top), box=(0, row, width, row)), (0, y))
    if ratio > old_ratio and left:
        for column, x in ((0, 0), (scaled_width, left + scaled_width)):
            canvas.paste(scaled.resize((left, height), box=(column, 0, column, height)), (x, 0))
    return canvas


def extended(image: Image, border: Sequence[int], fill: int | None = None) -> Image:
    """The image with a border of `border` pixels (left, top, right, bottom): its edge pixels repeated, or `fill`."""
    from PIL import Image as images

    left, top, right, bottom = border
    pixels = np.asarray(image)
    widths = ((top, bottom), (left, right), (0, 0))[: pixels.ndim]
    if fill is None:
        return images.fromarray(np.pad(pixels, widths, "edge"))
    return images.fromarray(np.pad(pixels, widths, constant_values=fill))


def reflected(image: Image, multiple: int) -> Image:
    """The image with its right and lower sides extended to multiples, by reflection at its outermost pixels."""
    from PIL import Image as images

    more = [(0, -side % multiple) for side in (image.height, image.width)]
    return images.fromarray(np.pad(np.asarray(image), (*more, (0, 0)), "reflect"))


def to_pixels(image: Image) -> Array:
    """The image as (1, channels, height, width) float32 in [-1, 1]."""
    return 2 * to_unit_range(image) - 1


def to_unit_range(image: Image) -> Array:
    """The image as (1, channels, height, width) float32 in [0, 1]."""
    pixels = np.asarray(image, np.float32).reshape(image.height, image.width, -1) / 255
    return pixels.transpose(2, 0, 1)[np.newaxis]


def digest(image: Image) -> dict[str, str | list[int]]:
    """Identity of an image: its size, and the SHA-256 of its pixels."""
    return {"sha256": hashlib.sha256(image.tobytes()).hexdigest(), "size": [*image.size]}


def preview_image(latents: Array, to_rgb: Sequence[tuple[float, float, float]]) -> Image:
    """A small RGB image from one image's latents (channels, height, width): a linear map, the last row constant."""
    weights = np.asarray(to_rgb, np.float32)
    rgb = np.einsum("chw,cr->rhw", latents.astype(np.float32), weights[:-1]) + weights[-1][:, None, None]
    return to_images(rgb[None])[0]


PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
WRITTEN: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
ANIMATIONS = {".gif": "GIF", ".webp": "WEBP", ".apng": "PNG"}


def save_animation(images: Sequence[Image], path: Path, per_second: float) -> None:
    """Writes images as a looping animation, in the format of the file's suffix, whole or not at all.

    Raises OutputError if the file cannot be written.
    """
    options = {"save_all": True, "append_images": images[1:], "duration": round(1000 / per_second), "loop": 0}
    write_image(images[0], path, format=ANIMATIONS[path.suffix.lower()], **options)


def save_picture(image: Image, path: Path, text: Mapping[str, str], note: bytes = b"") -> None:
    """Writes `image` in the format of the file's suffix, whole or not at all; a name without a suffix is a PNG's.

    text: a PNG's text chunks; JPEG and WebP get its "parameters" as the EXIF comment, and all get XMP. note: their
    maker's note. JPEG has quality 95 without subsampling, WebP is lossless. Raises RequestError for a suffix of another
    format, OutputError if the file cannot be written.
    """
    kind = kind_of(path)
    write_image(image, path, format=kind, **options_of(kind, text, note))


def picture_bytes(image: Image, kind: str, text: Mapping[str, str], note: bytes = b"", **options: Any) -> bytes:
    """The file of a picture, as `save_picture` writes it. kind: Pillow's format. options: what to write otherwise."""
    file = io.BytesIO()
    image.save(file, format=kind, **{**options_of(kind, text, note), **options})
    return file.getvalue()


def options_of(kind: str, text: Mapping[str, str], note: bytes) -> dict[str, Any]:
    """Pillow's options for a picture with metadata."""
    return png_options(text) if kind == "PNG" else exif_options(kind, text, note)


def kind_of(path: Path) -> str:
    """Pillow's format for a picture's suffix. Raises RequestError for an unknown one."""
    suffix = path.suffix.lower() or ".png"
    if suffix not in PICTURES:
        raise RequestError(f"{path}: got the ending {path.suffix!r}, expected {' or '.join(PICTURES)}")
    return PICTURES[suffix]


def png_options(text: Mapping[str, str]) -> dict[str, Any]:
    """Pillow's options for a PNG."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in text.items():
        (info.add_itxt if key == xmp.KEY else info.add_text)(key, value)
    return {"pnginfo": info}


def exif_options(kind: str, text: Mapping[str, str], note: bytes) -> dict[str, Any]:
    """Pillow's options for a JPEG or a WebP."""
    options = dict(WRITTEN[kind])
    if xmp.KEY in text:
        packet = text[xmp.KEY]
        options |= {"extra": xmp.jpeg_segment(packet)} if kind == "JPEG" else {"xmp": packet.encode()}
    if "parameters" not in text:
        return options
    found = exif.block(text["parameters"], note)
    if kind == "JPEG" and len(found) > exif.LARGEST:
        log.warning("the metadata is too long for a JPEG's EXIF: part of it is left out; save a PNG to keep all")
        found = exif.block("", note)
    return options if kind == "JPEG" and len(found) > exif.LARGEST else {**options, "exif": found}


def write_image(image: Image, path: Path, **options: Any) -> None:
    """Writes a picture whole or not at all. Raises OutputError if the file cannot be written."""
    with output_file(path) as temporary:
        image.save(temporary, **options)


Fit = Literal["stretch", "crop"]
