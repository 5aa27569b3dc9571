"""Inpainting with any model: where the mask is black, the image's latents replace the sampler's after every step.

They are noised to the level of the step. As diffusers 0.42.1's StableDiffusionInpaintPipeline with a UNet of 4 channels
(blended diffusion, Avrahami et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from latentrt.sampling.grids import Grid
from latentrt.sampling.step import Denoise, Noise, SamplerSteps
from latentrt.tensors import Array


def inpainting(
    sampler: Callable[..., SamplerSteps], keep_unmasked: Callable[[Array, float], None]
) -> Callable[..., SamplerSteps]:
    """A sampler that changes only the masked part: `keep_unmasked` overwrites the rest with the image at a level.

    This happens before every call of the model and after every step. Only the first step starts from the initial
    latents unchanged, which at strength 1 are noise alone, as in diffusers.
    """

    def keeping(denoise: Denoise, x: Array, grid: Grid, noise: Noise, **options: Any) -> SamplerSteps:
        first, *following = grid.sigmas.tolist()

        def denoise_kept(x: Array, sigma: float) -> Array:
            if sigma != first:
                keep_unmasked(x, sigma)  # also at levels in between, where samplers of second order call the model
            return denoise(x, sigma)

        return kept_steps(sampler(denoise_kept, x, grid, noise, **options), [*following, 0.0], keep_unmasked)

    return keeping


def kept_steps(
    sampler: SamplerSteps, levels: list[float], keep_unmasked: Callable[[Array, float], None]
) -> Iterator[tuple[Array, Array]]:
    """The sampler's steps, with the unmasked part overwritten before the next step."""
    for level, (latents, denoised) in zip(levels, sampler, strict=True):
        keep_unmasked(latents, level)
        yield latents, denoised
