"""Tiles for sizes that a model was not trained at, and pictures whose edges meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from latentrt.bundle.manifest import Manifest
from latentrt.errors import RequestError
from latentrt.request.request import Request
from latentrt.request.rows import checked
from latentrt.sampling.tiling import Seamless, Tile, tile_grid
from latentrt.validate import or_default, shown, side

OVERLAP = 4  # tiles over each place, along an axis, unless a stride is given


@dataclass(frozen=True)
class Tiling:
    """The side of a tile and the distance from one to the next, in pixels; None where the model sees all at once.

    seamless: the edges that meet.
    """

    window: int | None = None
    stride: int | None = None
    seamless: Seamless | None = None

    def tiles(self, width: int, height: int, pixels: int) -> list[Tile]:
        """The denoiser's tiles of a picture; none where it sees all at once. pixels: per latent, along a side."""
        if self.window is None or self.stride is None:
            return []
        rows, columns, window, stride = (side // pixels for side in (height, width, self.window, self.stride))
        return tile_grid(rows, columns, window, stride, self.seamless)

    def record(self) -> dict[str, Any]:
        """The fields of the request that make this again."""
        return dict(vars(self))


def resolve_tiling(request: Request, manifest: Manifest) -> Tiling:
    """The request's tiles; of the bundle's own size where only edges are to meet. Raises RequestError."""
    seamless = None if request.seamless is None else checked(request, "seamless")
    if request.window is None and seamless is None:
        if request.stride is not None:
            raise RequestError(f"stride: got {shown(request.stride)} without window; give the side of tiles too")
        return Tiling()
    pixels, own = manifest.latents.pixel_multiple, min(manifest.defaults.width, manifest.defaults.height)
    window = side("window", or_default(request.window, own), pixels)
    apart = window // OVERLAP // pixels * pixels or pixels
    stride = side("stride", or_default(request.stride, apart), pixels)
    if stride > window:
        raise RequestError(f"stride: got {stride}, expected at most {window}, the side of a tile; more leaves gaps")
    return Tiling(window, stride, seamless)
