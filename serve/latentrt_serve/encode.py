"""Pictures as bytes and as base64, with their metadata, and signed where the operator has a certificate."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latentrt.images import xmp
from latentrt.pipeline.metadata import bytes_with_text

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentrt.images.credentials import Signer
    from latentrt_serve.job import Pictures

KINDS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


@dataclass
class Signing:
    """Who signs all pictures of this process; None for nobody."""

    signer: Signer | None = None


# It lies here, and is handed to no route, so that no route can leave it out.
SIGNING = Signing()


def encoded(
    image: Image, kind: str = "png", text: Mapping[str, str] | None = None, quality: int | None = None
) -> bytes:
    """The file of a picture; signed if it is marked as generated and there is a signer.

    kind: a key of KINDS. quality: 0 to 100, of JPEG, and of WebP that is not lossless.
    """
    options: dict[str, Any] = {}
    if quality is not None and kind != "png":
        options = {"quality": quality, **({"lossless": False} if kind == "webp" else {})}
    if kind == "jpeg":
        image = image.convert("RGB")
    file = bytes_with_text(image, KINDS[kind], text or {}, **options)
    return SIGNING.signer.sign(file) if SIGNING.signer and text and xmp.KEY in text else file


def files_of(pictures: Pictures, kind: str = "png", quality: int | None = None) -> list[bytes]:
    """The file of each picture of a job."""
    pairs = zip(pictures.images, pictures.texts, strict=True)
    return [encoded(image, kind, text, quality) for image, text in pairs]


def base64_of(data: bytes) -> str:
    """The bytes as base64 text."""
    return base64.b64encode(data).decode()
