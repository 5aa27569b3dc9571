"""The noise of a run: each image's own, so that it is the same alone and in a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from latentrt.sampling.grids import Grid
from latentrt.sampling.noise.brownian import BrownianTree, Generator
from latentrt.sampling.noise.torch_cpu import TorchGenerator
from latentrt.sampling.noise.torch_cuda import PhiloxGenerator
from latentrt.sampling.noise.variation import varied
from latentrt.sampling.step import Noise
from latentrt.tensors import Array

GENERATORS: dict[str, Callable[[int], Generator]] = {"cpu": TorchGenerator, "cuda": PhiloxGenerator}


@dataclass(frozen=True)
class NoiseSpec:
    """Generator and seeds of a run's random numbers.

    generator: torch's on a "cpu" or a "cuda" GPU. seeds: one per image. variation_seeds: one per image, or none; the
    initial noise of `seeds` turns towards theirs by variation_strength, 0 to 1.
    """

    generator: NoiseName
    seeds: tuple[int, ...]
    variation_seeds: tuple[int, ...] = ()
    variation_strength: float = 0.0

    def of_image(self, image: int) -> NoiseSpec:
        """The spec that draws one image of the batch by itself."""
        variations = self.variation_seeds and (self.variation_seeds[image],)
        return replace(self, seeds=(self.seeds[image],), variation_seeds=variations)


class NoiseSource:
    """Random numbers of a run: a stream per image, first the initial noise, then what samplers add."""

    def __init__(self, spec: NoiseSpec, shape: tuple[int, ...], before: Sequence[tuple[int, ...]] = ()) -> None:
        """shape: of one image's latents, (channels, rows, columns). before: of what was drawn first."""
        self.spec, self.shape = spec, shape
        self.generator = GENERATORS[spec.generator]
        self.streams = [self.generator(seed) for seed in spec.seeds]
        for earlier in before:
            for stream in self.streams:
                stream.randn(earlier)

    def initial(self) -> Array:
        """Unit-variance noise, (batch, channels, rows, columns) float32, turned towards the variation seeds if any."""
        noise = self.normal(0.0, 0.0)
        others = [self.generator(seed).randn(self.shape) for seed in self.spec.variation_seeds]
        if not others:
            return noise
        strength = self.spec.variation_strength
        return np.stack([varied(one, other, strength) for one, other in zip(noise, others, strict=True)])

    def normal(self, _sigma: float, _sigma_next: float) -> Array:
        """The next normals of every image's stream, (batch, channels, rows, columns) float32."""
        return np.stack([stream.randn(self.shape) for stream in self.streams])

    def brownian(self, grid: Grid) -> Noise:
        """Noise along one Brownian path per image through the levels of `grid`, the same for any number of steps."""
        trees: list[BrownianTree] = []

        def noise(sigma: float, sigma_next: float) -> Array:
            if not trees:  # a run of one step has one level, and asks for no noise
                low, high = lowest_level(grid), float(grid.sigmas[0])
                trees.extend(BrownianTree(seed, self.shape, low, high, self.generator) for seed in self.spec.seeds)
            return np.stack([tree(sigma, sigma_next) for tree in trees])

        return noise


def lowest_level(grid: Grid) -> float:
    """The lowest level above zero."""
    levels: Sequence[float] = [*grid.sigmas.tolist(), *grid.sigmas_next.tolist()]
    return min(level for level in levels if level)


NoiseName = Literal["cpu", "cuda"]
