"""Presets in place of a request's own fields: those of the bundle, and those of LoRAs distilled for few steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from latentrt.bundle.manifest import Manifest
from latentrt.bundle.presets import REQUESTED
from latentrt.errors import RequestError
from latentrt.prompt.tags import tags_of
from latentrt.request.few_step import FEW_STEP, few_step_fields, few_step_of
from latentrt.request.request import Request
from latentrt.request.rows import changed, checked

NONE = "none"  # the preset that keeps a LoRA's own settings out


def with_preset(request: Request, manifest: Manifest, loras: Iterable[str] = ()) -> Request:
    """The request with its preset's fields where it has none of its own, and those of a LoRA for few steps.

    loras: names of the files that are added to the weights; those that the prompt names are found here. Raises
    RequestError for an unknown preset, and for LoRAs of different settings.
    """
    name = checked(request, "preset", NONE)
    if name in FEW_STEP:
        return replace(request, preset=None, **few_step_fields(request, name))
    if name != NONE:
        request = replace(request, preset=None, **bundle_fields(request, manifest, name))
    elif request.preset is not None:
        return replace(request, preset=None)
    known = few_step_of([*loras, *named_in(request)])
    return replace(request, **few_step_fields(request, known)) if known else request


def bundle_fields(request: Request, manifest: Manifest, name: str) -> dict[str, Any]:
    """The fields of a preset of the bundle that the request leaves open. Raises RequestError for an unknown preset."""
    known = manifest.presets
    if name not in known:
        names = " or ".join(known)
        wanted = f"expected {names}" if names else "but the bundle has none; `latentrt presets` measures some"
        raise RequestError(
            f"preset: got {name!r}, {wanted}. Those of LoRAs for few steps are {', '.join(FEW_STEP)}, and {NONE}"
        )
    return {one: getattr(known[name], one) for one in REQUESTED if not changed(request, one)}


def named_in(request: Request) -> list[str]:
    """The names of the LoRAs in the prompt's tags. A malformed tag has none; it is refused where the prompt is read."""
    if request.syntax == "plain" or not isinstance(request.prompt, str) or "<" not in request.prompt:
        return []
    try:
        return [tag.name for tag in tags_of(request.prompt, strict=False) if tag.unet]
    except RequestError:
        return []
