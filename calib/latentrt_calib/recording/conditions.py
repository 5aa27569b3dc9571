"""Label maps, layouts, vectors and images for models that are conditioned on such: always the same for a seed.

Nobody collects files of these for a calibration, so they are drawn: blocks of labels, boxes, directions, pictures.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from latentrt.bundle.manifest import Classes, Layout, Manifest
from latentrt.tensors import Array
from latentrt_calib.recording.inits import drawn_picture

# Blocks along a side of a drawn label map, objects of a drawn layout, vectors of a drawn context.
BLOCKS, OBJECTS, VECTORS = 8, 6, 5


def condition_fields(manifest: Manifest, seed: int, size: tuple[int, int]) -> dict[str, Any]:
    """The fields of a request that the model is conditioned on besides text, class and picture.

    size: of the request's picture, in pixels.
    """
    random, found = np.random.default_rng(seed), dict[str, Any]()
    if manifest.segmentation:
        found["segmentation"] = drawn_labels(random, manifest.segmentation, size)
    if manifest.layout:
        found["layout"] = drawn_layout(random, manifest.layout)
    if manifest.vector_width:
        found["vectors"] = random.standard_normal((VECTORS, manifest.vector_width)).astype(np.float32)
    if manifest.varies_images:
        found["image"] = drawn_picture(seed, *size)
    return found


def drawn_labels(random: np.random.Generator, classes: Classes, size: tuple[int, int]) -> Array:
    """A label per pixel, int64 (height, width), in blocks."""
    width, height = size
    blocks = random.integers(0, classes.count, (BLOCKS, BLOCKS))
    rows, columns = (np.arange(side) * BLOCKS // side for side in (height, width))
    labels: Array = blocks[rows[:, np.newaxis], columns]
    return labels


def drawn_layout(random: np.random.Generator, layout: Layout) -> list[dict[str, Any]]:
    """Boxes of random classes, each inside the picture."""
    boxes = []
    for _ in range(min(OBJECTS, layout.objects)):
        left, top = random.uniform(0, 0.6, 2).tolist()
        width, height = random.uniform(0.2, 0.4, 2).tolist()
        label = int(random.integers(0, layout.tokens // 16))  # classes have the lowest tokens
        boxes.append({"label": label, "box": [left, top, width, height]})
    return boxes
