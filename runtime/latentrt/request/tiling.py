"""The sides and the stride of tiles, and which edges of the picture meet."""

from __future__ import annotations

from typing import Any

from latentrt.bundle.manifest import Manifest
from latentrt.errors import RequestError
from latentrt.request.request import Request
from latentrt.sampling.tiling import Seamless
from latentrt.validate import choice, shown, side

SEAMLESS: tuple[Seamless, ...] = ("x", "y", "xy")


OVERLAP = 4  # windows over each place, along an axis, unless a stride is given


def windows_of(request: Request, manifest: Manifest) -> dict[str, Any]:
    """The sides of windows and how far one is from the next, pixels, and where edges meet; None for no windows."""
    seamless = None if request.seamless is None else choice("seamless", request.seamless, SEAMLESS)
    if request.window is None and seamless is None:
        if request.stride is not None:
            raise RequestError(f"stride: got {shown(request.stride)} without window; give the side of windows too")
        return {"window": None, "stride": None, "seamless": None}
    pixels, own = manifest.latents.factor, min(manifest.defaults.width, manifest.defaults.height)
    window = side("window", own if request.window is None else request.window, pixels)
    apart = window // OVERLAP // pixels * pixels or pixels
    stride = side("stride", apart if request.stride is None else request.stride, pixels)
    if stride > window:
        raise RequestError(f"stride: got {stride}, expected at most {window}, the side of a window; more leaves gaps")
    return {"window": window, "stride": stride, "seamless": seamless}
