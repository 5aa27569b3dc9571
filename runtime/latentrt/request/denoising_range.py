"""The range of the schedule that a run denoises, between a base and a refiner for example.

The range is one of training timesteps, divided as in diffusers 0.42.1's `denoising_end` and `denoising_start` (Podell
et al. 2023, section 2.5): a step belongs to the range in which its timestep lies.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from latentrt.errors import RequestError
from latentrt.request.request import Request
from latentrt.request.rows import checked
from latentrt.sampling.grids import Grid
from latentrt.tensors import Array


@dataclass(frozen=True)
class DenoisingRange:
    """A range of the schedule, as shares from 0 to 1, and the latents that the run goes on from, if any."""

    start: float = 0.0
    end: float = 1.0
    latents: Array | None = field(default=None, repr=False)

    def size(self, pixels: int) -> tuple[int, int] | None:
        """The width and height in pixels of the latents' picture. pixels: per latent, along a side."""
        if self.latents is None:
            return None
        *_, rows, columns = self.latents.shape
        return columns * pixels, rows * pixels

    def first(self, grid: Grid, train_steps: int) -> int:
        """The number of steps of the whole grid that belong to an earlier run."""
        return int((grid.timesteps >= cutoff(self.start, train_steps)).sum()) if self.start else 0

    def last(self, grid: Grid, train_steps: int) -> int:
        """The number of steps of the whole grid that belong to this run and earlier ones."""
        return int((grid.timesteps >= cutoff(self.end, train_steps)).sum())

    def record(self) -> dict[str, Any]:
        """The fields of the request that make this again, latents by their hash; nothing for the whole schedule."""
        shares = {"start": self.start, "end": self.end} if (self.start, self.end) != (0, 1) else {}
        digest = {} if self.latents is None else {"latents": hashlib.sha256(self.latents.tobytes()).hexdigest()}
        return shares | digest


def cutoff(share: float, train_steps: int) -> int:
    """The lowest timestep of the range that ends at a share of the schedule."""
    return round(train_steps - share * train_steps)


def resolve_denoising_range(request: Request, channels: int) -> DenoisingRange:
    """The request's range. channels: of the latents. Raises RequestError."""
    start, end = (checked(request, name) for name in ("start", "end"))
    if start >= end:
        raise RequestError(f"end: got {end:g} with a start of {start:g}, expected more")
    if request.latents is None:
        if start:
            raise RequestError(f"start: got {start:g} without latents; give those of the run that ended there")
        return DenoisingRange(start, end)
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
    return DenoisingRange(start, end, latents)
