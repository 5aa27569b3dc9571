"""The texts of a request, and how they are read and encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from latentrt.bundle.manifest import Manifest
from latentrt.errors import RequestError
from latentrt.prompt import Order, Syntax
from latentrt.request.request import Request
from latentrt.request.rows import changed, checked
from latentrt.validate import shown


@dataclass(frozen=True)
class TextSpec:
    """The prompts. clip_skip: the text encoder's layer, from the last. blend: mixed into `prompt` by blend_strength."""

    prompt: str
    negative: str = ""
    syntax: Syntax = "strict"
    lora_tags: Order = "a1111"
    clip_skip: int = 1
    blend: str | None = None
    blend_strength: float = 0.0

    def record(self) -> dict[str, Any]:
        """The fields of the request that make this again."""
        return dict(vars(self))


def resolve_text(request: Request, manifest: Manifest) -> TextSpec:
    """The request's texts; an empty prompt for a model without one. Raises RequestError."""
    if manifest.text is None:
        refuse_text(request, manifest)
        return TextSpec("")
    strength = strength_of(request, "blend_strength", "blend")
    return TextSpec(
        prompt=checked(request, "prompt"),
        negative=checked(request, "negative"),
        syntax=checked(request, "syntax"),
        lora_tags=checked(request, "lora_tags"),
        clip_skip=checked(request, "clip_skip", highest=manifest.text.layers),
        blend=checked(request, "blend") if request.blend is not None and strength else None,
        blend_strength=strength,
    )


def refuse_text(request: Request, manifest: Manifest) -> None:
    """Raises RequestError for a text in a request to a model without prompts."""
    others = {
        "a class by class_label (--class)": manifest.classes,
        "boxes by layout (--layout)": manifest.layout,
        "vectors (--vectors)": manifest.vector_width,
        "a label map by segmentation (--segmentation)": manifest.segmentation,
    }
    instead = next((f"give {name}" for name, taken in others.items() if taken), "leave it out")
    for name in ("prompt", "negative", "blend", "clip_skip"):
        if changed(request, name):
            raise RequestError(
                f"{name}: got {shown(getattr(request, name))}, but {manifest.name} takes no prompt; {instead}"
            )


def strength_of(request: Request, name: str, towards: str) -> float:
    """A share towards another field's value. Raises RequestError for a share above 0 without that field."""
    strength: float = checked(request, name)
    if strength and getattr(request, towards) is None:
        raise RequestError(f"{name}: got {strength:g} without a {towards}; give one to turn towards")
    return strength
