"""The calls of the model in a run, known before it starts: a sampler's walk through its grid on a single latent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from latentrt.sampling.grids import Grid
from latentrt.sampling.schedule import timestep_at
from latentrt.sampling.step import SamplerSteps
from latentrt.tensors import Array


@dataclass(frozen=True)
class Walk:
    """The calls of a run in order. sigmas, timesteps: of each call. draws_noise: whether the sampler adds noise."""

    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]
    draws_noise: bool

    @property
    def levels(self) -> dict[float, float]:
        """The timestep of every sigma, in the order of the first calls."""
        return dict(zip(self.sigmas, self.timesteps, strict=True))


def walk(sampler: Callable[..., SamplerSteps], grid: Grid) -> Walk:
    """Returns the calls that `sampler` makes on the grid.

    The grid's sigmas have the grid's timesteps; those between them are looked up in its table.
    """
    sigmas, drawn = list[float](), list[float]()
    nothing = np.zeros((1, 1, 1, 1), np.float32)

    def denoise(x: Array, sigma: float) -> Array:
        sigmas.append(sigma)
        return x

    def noise(sigma: float, _sigma_next: float) -> Array:
        drawn.append(sigma)
        return nothing

    for _ in sampler(denoise, nothing, grid, noise):
        pass
    known = dict(zip(grid.sigmas.tolist(), grid.timesteps.tolist(), strict=True))
    times = [known[one] if one in known else float(timestep_at(np.array(one), grid.table)) for one in sigmas]
    return Walk(tuple(sigmas), tuple(times), bool(drawn))
