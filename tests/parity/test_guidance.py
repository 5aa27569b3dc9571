"""Guidance against diffusers' own function for rescaling it."""

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from latentrt.sampling.guidance import guided


def normals(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((3, 4, 8, 6)).astype(np.float32)


@pytest.mark.parametrize("phi", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("scale", [1.0, 1.5, 7.5, 30.0])
def test_rescaled_guidance_is_that_of_diffusers(scale: float, phi: float) -> None:
    negative, positive = normals(1), normals(2) * np.float32(1.7) + np.float32(0.3)
    u, c = torch.from_numpy(negative), torch.from_numpy(positive)
    strong = u + scale * (c - u)
    expected = rescale_noise_cfg(strong, c, guidance_rescale=phi) if phi else strong
    got = guided(negative, [(1.0, positive)], scale, phi)
    # torch's standard deviation divides by n - 1, which cancels out
    np.testing.assert_allclose(got, expected.numpy(), rtol=2e-5, atol=2e-5)
