"""Pictures to arrays, and arrays to pictures and PNG files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.atomic import output_file
from latentrt.errors import RequestError
from latentrt.tensors import Array

if TYPE_CHECKING:
    from PIL.Image import Image


def to_images(pixels: Array) -> tuple[Image, ...]:
    """RGB images from (batch, 3, height, width) in [-1, 1]; rounded to 8 bits as diffusers' VaeImageProcessor does."""
    from PIL import Image

    scaled = np.clip(pixels.astype(np.float32) / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
    return tuple(Image.fromarray(image) for image in (scaled * 255).round().astype(np.uint8))


def open_image(name: str, source: str | Path | Image, mode: str = "RGB") -> Image:
    """The image in a file, or the one given, in Pillow's mode "RGB" or "L"; any transparency is dropped.

    Raises RequestError that begins with `name` for what is no image, damaged, or larger than Pillow takes for safe.
    """
    from PIL import Image

    if not isinstance(source, (str, Path, Image.Image)):
        raise RequestError(f"{name}: got {source!r}, expected an image or the path of its file")
    image = source if isinstance(source, Image.Image) else read_image(name, source)
    if image.mode.startswith(("I", "F")):  # Pillow cuts what is above 255, and does not scale it
        raise RequestError(f"{name}: got an image of mode {image.mode}, expected 8 bits a channel; save it with these")
    return image.convert(mode)


def read_image(name: str, path: str | Path) -> Image:
    """The image in a file, upright as its EXIF says. Raises RequestError that begins with `name`."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"{name}: {path} is not a readable image ({reason})") from error


def resized(image: Image, width: int, height: int, fit: str = "stretch") -> Image:
    """The image at that size: stretched, or ("crop") scaled to cover it and cut around the middle.

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


def squared(image: Image, side: int) -> Image:
    """The image with its shorter side at `side`, cut around the middle: how CLIP's encoders of images are shown one.

    By bicubic, and to the pixel as transformers 5.23's CLIPImageProcessor.
    """
    from PIL.Image import Resampling

    width, height = (max(side, int(side * own / min(image.size))) for own in image.size)
    scaled = image.resize((width, height), Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    return scaled.crop((left, top, left + side, top + side))


def filled(image: Image, width: int, height: int) -> Image:
    """The image scaled to fit into that size, in the middle; its outermost rows or columns fill what is left over.

    To the pixel as diffusers 0.42.1's VaeImageProcessor with resize_mode "fill".
    """
    from PIL import Image as images

    ratio, given = width / height, image.width / image.height
    scaled_width = width if ratio < given else image.width * height // image.height
    scaled_height = height if ratio >= given else image.height * width // image.width
    scaled = image.resize((scaled_width, scaled_height), images.Resampling.LANCZOS)
    canvas = images.new(image.mode, (width, height))
    left, top = width // 2 - scaled_width // 2, height // 2 - scaled_height // 2
    canvas.paste(scaled, (left, top))
    if ratio < given and top:
        for row, place in ((0, 0), (scaled_height, top + scaled_height)):
            canvas.paste(scaled.resize((width, top), box=(0, row, width, row)), (0, place))
    if ratio > given and left:
        for column, place in ((0, 0), (scaled_width, left + scaled_width)):
            canvas.paste(scaled.resize((left, height), box=(column, 0, column, height)), (place, 0))
    return canvas


def extended(image: Image, border: Sequence[int], fill: int | None = None) -> Image:
    """The image, so many pixels wider at its left, top, right and bottom, where its outermost go on, or `fill` is."""
    from PIL import Image as images

    left, top, right, bottom = border
    pixels = np.asarray(image)
    widths = ((top, bottom), (left, right), (0, 0))[: pixels.ndim]
    if fill is None:
        return images.fromarray(np.pad(pixels, widths, "edge"))
    return images.fromarray(np.pad(pixels, widths, constant_values=fill))


def to_pixels(image: Image) -> Array:
    """(1, channels, height, width) float32 in [-1, 1]."""
    return 2 * to_shares(image) - 1


def to_shares(image: Image) -> Array:
    """(1, channels, height, width) float32 in [0, 1]."""
    pixels = np.asarray(image, np.float32).reshape(image.height, image.width, -1) / 255
    return pixels.transpose(2, 0, 1)[np.newaxis]


def digest(image: Image) -> dict[str, str | list[int]]:
    """What tells an image from others: its size, and the SHA-256 of its pixels."""
    return {"sha256": hashlib.sha256(image.tobytes()).hexdigest(), "size": [*image.size]}


def preview_image(latents: Array, to_rgb: Sequence[tuple[float, float, float]]) -> Image:
    """A small RGB image from one image's latents (channels, height, width): a linear map, the last row constant."""
    weights = np.asarray(to_rgb, np.float32)
    rgb = np.einsum("chw,cr->rhw", latents.astype(np.float32), weights[:-1]) + weights[-1][:, None, None]
    return to_images(rgb[None])[0]


ANIMATIONS = {".gif": "GIF", ".webp": "WEBP", ".apng": "PNG"}


def save_animation(images: Sequence[Image], path: Path, per_second: float) -> None:
    """Writes images one after the other, again and again, in the format of the name's ending; whole or not at all.

    Raises OutputError when it cannot be written there.
    """
    options = {"save_all": True, "append_images": images[1:], "duration": round(1000 / per_second), "loop": 0}
    write_image(images[0], path, format=ANIMATIONS[path.suffix.lower()], **options)


def save_png(image: Image, path: Path, text: Mapping[str, str]) -> None:
    """Writes `image` with text chunks, whole or not at all. Raises OutputError when it cannot be written there."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    write_image(image, path, format="PNG", pnginfo=info)


def write_image(image: Image, path: Path, **options: Any) -> None:
    """Writes a picture whole or not at all. Raises OutputError when it cannot be written there."""
    with output_file(path) as temporary:
        image.save(temporary, **options)
