"""What some models are told of a picture besides the prompt: how it was cut from a larger one, how well liked it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from latentrt.bundle.manifest import Manifest
from latentrt.errors import RequestError
from latentrt.request.request import Request
from latentrt.validate import number, shown, whole

LARGEST_SIDE = 1 << 16
LARGEST_SCORE = 100
# As in diffusers 0.42.1's StableDiffusionXLImg2ImgPipeline.
SCORES = {"aesthetic_score": 6.0, "negative_aesthetic_score": 2.5}


def sizes_of(request: Request, manifest: Manifest, size: tuple[int, int]) -> dict[str, Any]:
    """The sizes that the model is told, each of two numbers; none for one that is told nothing. size: the picture's."""
    usual = {"original_size": (size, 1), "crop": ((0, 0), 0), "target_size": (size, 1)}
    asked = {name: getattr(request, name) for name in usual}
    known = {
        name for name in usual if any(told.startswith(name.removesuffix("size")) for told in manifest.request_values)
    }
    for name, value in asked.items():
        if value is not None and name not in known:
            raise untold(name, value, manifest)
    return {
        name: pair(name, default if asked[name] is None else asked[name], low)
        for name, (default, low) in usual.items()
        if name in known
    }


def scores_of(request: Request, manifest: Manifest) -> dict[str, Any]:
    """How well liked pictures are to look, for models that are told."""
    asked = {name: getattr(request, name) for name in SCORES}
    if "aesthetic_score" in manifest.request_values:
        return {
            name: number(name, usual if asked[name] is None else asked[name], 0, LARGEST_SCORE)
            for name, usual in SCORES.items()
        }
    for name, value in asked.items():
        if value is not None:
            raise untold(name, value, manifest)
    return {}


def untold(name: str, value: Any, manifest: Manifest) -> RequestError:
    """The error for what the model is not told."""
    return RequestError(f"{name}: got {shown(value)}, but {manifest.family} models are not told it; leave it out")


def pair(name: str, asked: Any, lowest: int) -> tuple[int, int]:
    """Two whole numbers."""
    if isinstance(asked, str) or not isinstance(asked, Sequence) or len(asked) != 2:
        raise RequestError(f"{name}: got {shown(asked)}, expected two whole numbers, for example (1024, 1024)")
    first, second = (whole(name, number, lowest, LARGEST_SIDE) for number in asked)
    return first, second
