"""The texts of a request, and how they are read and encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from latentrt.bundle.manifest import Manifest
from latentrt.errors import RequestError
from latentrt.prompt import Order, Syntax
from latentrt.request.request import Request
from latentrt.request.rows import checked


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
    """The request's texts. Raises RequestError."""
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


def strength_of(request: Request, name: str, towards: str) -> float:
    """A share towards another field's value. Raises RequestError for a share above 0 without that field."""
    strength: float = checked(request, name)
    if strength and getattr(request, towards) is None:
        raise RequestError(f"{name}: got {strength:g} without a {towards}; give one to turn towards")
    return strength
