"""Presets of a bundle in place of a request's own fields."""

from __future__ import annotations

from dataclasses import replace

from latentrt.bundle.manifest import Manifest
from latentrt.bundle.presets import REQUESTED
from latentrt.errors import RequestError
from latentrt.request.request import Request
from latentrt.request.rows import changed, checked


def with_preset(request: Request, manifest: Manifest) -> Request:
    """The request with its preset's fields where it has none of its own. Raises RequestError for an unknown preset."""
    if request.preset is None:
        return request
    name, known = checked(request, "preset"), manifest.presets
    if name not in known:
        names = " or ".join(known)
        wanted = f"expected {names}" if names else "but the bundle has none; `latentrt presets` measures some"
        raise RequestError(f"preset: got {name!r}, {wanted}")
    fields = {one: getattr(known[name], one) for one in REQUESTED if not changed(request, one)}
    return replace(request, preset=None, **fields)
