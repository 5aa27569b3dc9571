"""A run that does a part of the way from noise to picture, and hands its latents to another model: base and refiner.

The way is that of the training timesteps, and where it is cut is as in diffusers 0.42.1's `denoising_end` and
`denoising_start` (Podell et al. 2023, section 2.5): a step belongs to the part in which its timestep lies.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.errors import RequestError
from latentrt.request.request import Request
from latentrt.sampling.grids import Grid
from latentrt.tensors import Array
from latentrt.validate import number

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Handover:
    """Which part of the way a run goes, as shares from 0 to 1, and the latents that it goes on from, if any."""

    start: float = 0.0
    end: float = 1.0
    latents: Array | None = field(default=None, repr=False)

    def size(self, pixels: int) -> tuple[int, int] | None:
        """The width and height in pixels of what the latents become. pixels: a side of one latent."""
        if self.latents is None:
            return None
        *_, rows, columns = self.latents.shape
        return columns * pixels, rows * pixels

    def first(self, grid: Grid, train_steps: int) -> int:
        """How many steps of the whole grid are those of an earlier run."""
        return int((grid.timesteps >= cutoff(self.start, train_steps)).sum()) if self.start else 0

    def last(self, grid: Grid, train_steps: int) -> int:
        """How many steps of the whole grid are those of this run and earlier ones."""
        return int((grid.timesteps >= cutoff(self.end, train_steps)).sum())

    def record(self) -> dict[str, Any]:
        """What a picture says of it, as JSON can hold it; nothing where the run went the whole way."""
        shares = {"start": self.start, "end": self.end} if (self.start, self.end) != (0, 1) else {}
        digest = {} if self.latents is None else {"latents": hashlib.sha256(self.latents.tobytes()).hexdigest()}
        return shares | digest


def cutoff(share: float, train_steps: int) -> int:
    """The lowest timestep of the part that ends at a share of the way."""
    return round(train_steps - share * train_steps)


def handover_of(request: Request, channels: int) -> Handover:
    """The request's part of the way. Raises RequestError for one that cannot be gone. channels: of the latents."""
    start, end = (number(name, getattr(request, name), 0, 1) for name in ("start", "end"))
    if start >= end:
        raise RequestError(f"end: got {end:g} with a start of {start:g}, expected more")
    if request.latents is None:
        if start:
            raise RequestError(f"start: got {start:g} without latents; give those of the run that ended there")
        return Handover(start, end)
    if request.init is not None:
        raise RequestError("latents: got them and init, expected one of the two")
    try:
        latents = np.asarray(request.latents, np.float32)
    except (TypeError, ValueError) as error:
        raise RequestError(f"latents: got {type(request.latents).__name__}, expected an array of numbers") from error
    expected = (request.batch, channels)
    if latents.ndim != 4 or latents.shape[:2] != expected or 0 in latents.shape or not np.isfinite(latents).all():
        shape = (*expected, "rows", "columns")
        raise RequestError(f"latents: got the shape {latents.shape}, expected finite numbers of the shape {shape}")
    return Handover(start, end, latents)
