"""Pictures as bytes and as base64, with their metadata."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from latentrt.pipeline.metadata import bytes_with_text

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentrt_serve.job import Pictures

KINDS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


def encoded(
    image: Image, kind: str = "png", text: Mapping[str, str] | None = None, quality: int | None = None
) -> bytes:
    """The file of a picture. kind: a key of KINDS. quality: 0 to 100, of JPEG, and of WebP that is not lossless."""
    options: dict[str, Any] = {}
    if quality is not None and kind != "png":
        options = {"quality": quality, **({"lossless": False} if kind == "webp" else {})}
    if kind == "jpeg":
        image = image.convert("RGB")
    return bytes_with_text(image, KINDS[kind], text or {}, **options)


def files_of(pictures: Pictures, kind: str = "png", quality: int | None = None) -> list[bytes]:
    """The file of each picture of a job."""
    pairs = zip(pictures.images, pictures.texts, strict=True)
    return [encoded(image, kind, text, quality) for image, text in pairs]


def base64_of(data: bytes) -> str:
    """The bytes as base64 text."""
    return base64.b64encode(data).decode()
