"""The noise of a run: each image's own, so that it is the same alone and in a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from latentrt.request.settings import Settings
from latentrt.sampling.grids import Grid
from latentrt.sampling.noise.brownian import BrownianTree, Generator
from latentrt.sampling.noise.torch_cpu import TorchGenerator
from latentrt.sampling.noise.torch_cuda import PhiloxGenerator
from latentrt.sampling.noise.variation import varied
from latentrt.sampling.step import Noise
from latentrt.tensors import Array

GENERATORS: dict[str, Callable[[int], Generator]] = {"cpu": TorchGenerator, "cuda": PhiloxGenerator}


class Draws:
    """The noise of each image's seed, as torch draws it on a CPU or on a CUDA GPU: the initial noise, then more."""

    def __init__(self, settings: Settings, shape: tuple[int, int, int]) -> None:
        """shape: of one image's latents, (channels, rows, columns)."""
        self.settings, self.shape = settings, shape
        self.generator = GENERATORS[settings.noise]
        self.streams = [self.generator(seed) for seed in settings.seeds]

    def initial(self) -> Array:
        """Unit-variance noise, (batch, channels, rows, columns) float32, turned towards the variation seeds if any."""
        noise = self.white(0.0, 0.0)
        others = [self.generator(seed).randn(self.shape) for seed in self.settings.variation_seeds]
        if not others:
            return noise
        strength = self.settings.variation_strength
        return np.stack([varied(one, other, strength) for one, other in zip(noise, others, strict=True)])

    def white(self, _sigma: float, _lower: float) -> Array:
        """The next normals of every image's stream."""
        return np.stack([stream.randn(self.shape) for stream in self.streams])

    def path(self, grid: Grid) -> Noise:
        """Noise along one Brownian path an image through the levels of `grid`, whatever its steps."""
        trees: list[BrownianTree] = []

        def noise(sigma: float, lower: float) -> Array:
            if not trees:  # a run of one step has one level, and asks for no noise
                low, high = lowest_level(grid), float(grid.sigmas[0])
                trees.extend(BrownianTree(seed, self.shape, low, high, self.generator) for seed in self.settings.seeds)
            return np.stack([tree(sigma, lower) for tree in trees])

        return noise


def lowest_level(grid: Grid) -> float:
    """The lowest level above zero."""
    levels: Sequence[float] = [*grid.sigmas.tolist(), *grid.lowers.tolist()]
    return min(level for level in levels if level)
