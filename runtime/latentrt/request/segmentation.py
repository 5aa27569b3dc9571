"""Label maps of models that draw a picture from a segmentation."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.bundle.manifest import Manifest
from latentrt.errors import RequestError
from latentrt.images.load import quiet, reason_of
from latentrt.request.request import Request
from latentrt.tensors import Array
from latentrt.validate import shown

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow's modes whose pixels are numbers of labels: indices of a palette, or grey.
MODES = ("P", "L", "I", "I;16")


@dataclass(frozen=True)
class Segmentation:
    """A label per pixel, int64 (height, width)."""

    labels: Array = field(repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width = self.labels.shape
        return width, height

    def record(self) -> dict[str, Any]:
        """The map by its hash."""
        digest = sha256(repr(self.labels.shape).encode() + np.ascontiguousarray(self.labels).tobytes())
        return {"segmentation": f"sha256:{digest.hexdigest()}"}


def resolve_segmentation(request: Request, manifest: Manifest) -> Segmentation | None:
    """The request's label map, or None for a model that takes none. Raises RequestError."""
    classes, given = manifest.segmentation, request.segmentation
    if classes is None:
        if given is not None:
            raise RequestError(f"segmentation: got one, but {manifest.name} takes no label map; leave it out")
        return None
    if given is None:
        raise RequestError(f"segmentation: got none, but {manifest.name} draws from a label map; give one")
    labels = labels_of(given)
    wrong = np.argwhere((labels < 0) | (labels >= classes.count))
    if len(wrong):
        row, column = map(int, wrong[0])
        raise RequestError(
            f"segmentation: got the label {labels[row, column]} at pixel {column}, {row}, expected 0 to "
            f"{classes.count - 1}"
        )
    return Segmentation(labels)


def labels_of(given: str | Path | Image | Array) -> Array:
    """The labels in an array, an image or its file, int64 (height, width). Raises RequestError for anything else."""
    from PIL import Image

    if isinstance(given, (str, os.PathLike)):
        try:
            with quiet(), Image.open(given) as image:
                return labels_of_image(image)
        except (RequestError, MemoryError):
            raise
        except Exception as error:  # Pillow's decoders raise any error for a damaged file
            raise RequestError(f"segmentation: {given} is not a readable image ({reason_of(error)})") from error
    if isinstance(given, Image.Image):
        return labels_of_image(given)
    if not (isinstance(given, np.ndarray) and given.ndim == 2 and given.dtype.kind in "iu"):
        raise RequestError(f"segmentation: got {shown(given)}, expected an image, its file, or labels (height, width)")
    return given.astype(np.int64)


def labels_of_image(image: Image) -> Array:
    """The labels in an image: its palette's indices, or its grey values."""
    if image.mode not in MODES:
        raise RequestError(
            f"segmentation: got an image of mode {image.mode}, expected one number per pixel: a palette (P) or grey (L)"
        )
    labels: Array = np.asarray(image).astype(np.int64)
    return labels
