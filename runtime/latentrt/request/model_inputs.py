"""Inputs of the model besides the prompt: SDXL's size conditioning, its refiner's aesthetic score, a class label.

A new one is a field of `ModelInputs`, its line in `resolve_model_inputs`, and the row of VALUES by which a manifest
asks for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from hashlib import sha256
from typing import Any

import numpy as np

from latentrt.bundle.manifest import Classes, Layout, Manifest
from latentrt.bundle.sources import CLASS_LABEL, CONTEXT_VECTORS, LAYOUT_TOKENS
from latentrt.errors import RequestError
from latentrt.request.context_vectors import context_vectors
from latentrt.request.layout import Box, layout_of, layout_tokens
from latentrt.request.request import Request
from latentrt.request.rows import checked
from latentrt.tensors import Array
from latentrt.validate import is_list, or_default, shown, whole

LARGEST_SIDE = 1 << 16
# As in diffusers 0.42.1's StableDiffusionXLImg2ImgPipeline.
SCORES = {"aesthetic_score": 6.0, "negative_aesthetic_score": 2.5}
SIZES = ("original_size", "crop", "target_size")


@dataclass(frozen=True)
class ModelInputs:
    """Sizes are (width, height) in pixels, crop is (left, top); None for what the model does not take.

    class_label: the class; unconditional_label: the one that stands for none, for guidance. vectors: (vectors, width).
    layout: the boxes of a model whose layouts are of `layout_kind`.
    """

    original_size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    target_size: tuple[int, int] | None = None
    aesthetic_score: float | None = None
    negative_aesthetic_score: float | None = None
    class_label: int | None = None
    unconditional_label: int | None = None
    vectors: Array | None = field(default=None, repr=False)
    layout: tuple[Box, ...] | None = None
    layout_kind: Layout | None = None

    def record(self) -> dict[str, Any]:
        """The fields of the request that make this again."""
        known = {name: getattr(self, name) for name in (*SIZES, *SCORES)}
        if self.class_label is not None:
            known[CLASS_LABEL] = self.class_label
        if self.vectors is not None:
            known["vectors"] = f"sha256:{sha256(self.vectors.tobytes()).hexdigest()}"
        if self.layout is not None:
            known["layout"] = [box.record() for box in self.layout]
        return known

    def score(self, *, negative: bool) -> float:
        """The aesthetic score of the prompt or of the negative prompt."""
        score = self.negative_aesthetic_score if negative else self.aesthetic_score
        return 0.0 if score is None else score

    def context(self, *, negative: bool) -> Array:
        """The vectors to attend to; zeros in the rows of the negative prompt, as the original guides."""
        assert self.vectors is not None  # `resolve_model_inputs` asks for them
        return np.zeros_like(self.vectors) if negative else self.vectors

    def tokens(self, *, negative: bool) -> Array:
        """The tokens of the layout; those of an empty one in the rows of the negative prompt."""
        assert self.layout is not None and self.layout_kind is not None
        return layout_tokens(() if negative else self.layout, self.layout_kind)

    def label(self, *, negative: bool) -> float:
        """The class, or the unconditional one in the rows of the negative prompt."""
        return float((self.unconditional_label if negative else self.class_label) or 0)


def part_of(field: str, place: int) -> Callable[[ModelInputs, bool], float]:
    """One number of a pair."""
    return lambda inputs, _negative: float(getattr(inputs, field)[place])


# Values by their names in a manifest; the second argument says whether it is for the negative prompt.
VALUES: Mapping[str, Callable[[ModelInputs, bool], float | Array]] = {
    "original_width": part_of("original_size", 0),
    "original_height": part_of("original_size", 1),
    "crop_left": part_of("crop", 0),
    "crop_top": part_of("crop", 1),
    "target_width": part_of("target_size", 0),
    "target_height": part_of("target_size", 1),
    CONTEXT_VECTORS: lambda inputs, negative: inputs.context(negative=negative),
    LAYOUT_TOKENS: lambda inputs, negative: inputs.tokens(negative=negative),
    CLASS_LABEL: lambda inputs, negative: inputs.label(negative=negative),
    "aesthetic_score": lambda inputs, negative: inputs.score(negative=negative),
}


def resolve_model_inputs(request: Request, manifest: Manifest, size: tuple[int, int]) -> ModelInputs:
    """The inputs that the model takes, by default those of the picture's size. Raises RequestError for all others."""
    usual: dict[str, Any] = {"original_size": size, "crop": (0, 0), "target_size": size, **SCORES}
    taken = {name for name in usual if takes(manifest, name)}
    for name in usual:
        if getattr(request, name) is not None and name not in taken:
            got = shown(getattr(request, name))
            raise RequestError(f"{name}: got {got}, but {manifest.family} models do not take it; leave it out")
    sizes: dict[str, Any] = {name: pair(request, name, usual[name]) for name in SIZES if name in taken}
    scores = {name: checked(request, name, usual[name]) for name in SCORES if name in taken}
    labels: dict[str, Any] = resolve_class(request, manifest)
    return ModelInputs(**sizes, **scores, **labels, **resolve_stand_ins(request, manifest))


def resolve_class(request: Request, manifest: Manifest) -> dict[str, int | None]:
    """The class and the unconditional class, for a model that takes one. Raises RequestError."""
    label, classes = request.class_label, manifest.classes
    if classes is None:
        if label is not None:
            raise RequestError(f"class_label: got {shown(label)}, but {manifest.name} takes no class; leave it out")
        return {}
    return {CLASS_LABEL: label_of(label, classes, manifest.name), "unconditional_label": classes.unconditional}


def resolve_stand_ins(request: Request, manifest: Manifest) -> dict[str, Any]:
    """The vectors or the layout that stand for a prompt. Raises RequestError."""
    taken = {"vectors": bool(manifest.vector_width), "layout": manifest.layout is not None}
    for name, takes in taken.items():
        given = getattr(request, name)
        if given is not None and not takes:
            raise RequestError(f"{name}: got some, but {manifest.name} takes none; leave {name} out")
        if given is None and takes:
            raise RequestError(f"{name}: got none, but {manifest.name} draws from {name}; give some")
    found: dict[str, Any] = {}
    if manifest.vector_width:
        found["vectors"] = context_vectors(request.vectors, manifest.vector_width)
    if manifest.layout:
        found |= {"layout": layout_of(request.layout, manifest.layout), "layout_kind": manifest.layout}
    return found


def label_of(label: int | str | None, classes: Classes, model: str) -> int:
    """The number of a class that is given by number or name; "none" is the unconditional one. Raises RequestError."""
    if isinstance(label, str):
        if label.lower() == "none" and classes.unconditional is not None:
            return classes.unconditional
        return named_class(label, classes)
    if label is None:
        named = " or a name" if classes.names else ""
        raise RequestError(f"class_label: got none, but {model} draws a class; give 0 to {classes.count - 1}{named}")
    if label == classes.unconditional:
        return label
    return whole(CLASS_LABEL, label, 0, classes.count - 1)


def named_class(name: str, classes: Classes) -> int:
    """The number of the class of that name, of any case. Raises RequestError with the nearest names."""
    known = defaultdict[str, list[int]](list)
    for label, names in enumerate(classes.names):
        for one in {names, *names.split(", ")}:
            known[one.casefold()].append(label)
    found = known.get(name.casefold(), [])
    if len(found) == 1:
        return found[0]
    if found:
        raise RequestError(f"class_label: got {name!r}, the name of {' and '.join(map(str, found))}; give the number")
    near = [*get_close_matches(name.casefold(), known, 3), *(one for one in known if name.casefold() in one)]
    expected = " or ".join(map(repr, dict.fromkeys(near[:3]))) or f"0 to {classes.count - 1}"
    raise RequestError(f"class_label: got {name!r}, which is no class of the model; expected {expected}")


def takes(manifest: Manifest, name: str) -> bool:
    """Whether the model has an input for a field."""
    if name in SCORES:
        return "aesthetic_score" in manifest.request_values
    return any(one.startswith(name.removesuffix("size")) for one in manifest.request_values)


def pair(request: Request, name: str, default: tuple[int, int]) -> tuple[int, int]:
    """Two whole numbers."""
    value = or_default(getattr(request, name), default)
    if not is_list(value) or len(value) != 2:
        raise RequestError(f"{name}: got {shown(value)}, expected two whole numbers, for example (1024, 1024)")
    first, second = (whole(name, one, 0 if name == "crop" else 1, LARGEST_SIDE) for one in value)
    return first, second
