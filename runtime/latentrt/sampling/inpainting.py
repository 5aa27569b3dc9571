"""Inpainting with any model: where the mask is black, the image's own latents take the place of the sampler's.

At every level that the run comes by, the image is noised to that level and put in. As diffusers 0.42.1's
StableDiffusionInpaintPipeline with a UNet of 4 channels (blended diffusion, Avrahami et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from latentrt.sampling.grids import Grid
from latentrt.sampling.step import Denoise, Noise, Walk
from latentrt.tensors import Array

if TYPE_CHECKING:
    pass


def painted(walk: Callable[..., Walk], restore: Callable[[Array, float], None]) -> Callable[..., Walk]:
    """A sampler that paints only what is masked: `restore` writes the rest into latents, as it is at a level.

    The model never sees, and the sampler never goes on from, anything else there. The first step starts from what it is
    given, which at strength 1 is noise alone, as in diffusers.
    """

    def masked(denoise: Denoise, x: Array, grid: Grid, noise: Noise, **options: Any) -> Walk:
        first, *following = grid.sigmas.tolist()

        def seen(x: Array, sigma: float) -> Array:
            if sigma != first:
                restore(x, sigma)  # also between two levels, where samplers of second order try a step
            return denoise(x, sigma)

        return restored(walk(seen, x, grid, noise, **options), [*following, 0.0], restore)

    return masked


def restored(walk: Walk, levels: list[float], restore: Callable[[Array, float], None]) -> Iterator[tuple[Array, Array]]:
    """The steps of a walk, their latents written into before the walk goes on from them."""
    for level, (latents, denoised) in zip(levels, walk, strict=True):
        restore(latents, level)
        yield latents, denoised
