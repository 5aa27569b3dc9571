"""Two passes, the same as diffusers' text to image and, from its latents or pixels made larger, image to image."""

import numpy as np
import pytest
import torch

from latentrt.sampling.resize import bilinear
from tests.export.hires_pairs import CASES, UPSCALERS, built_in_pair, two_passes
from tests.export.samplers import MARKS

pytestmark = MARKS

LEAST_DB = 45.0


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    with built_in_pair(tmp_path_factory.mktemp("built-in")) as found:
        yield found


@pytest.mark.parametrize("upscaler", UPSCALERS)
def test_what_two_pipelines_draw(pair, upscaler):
    for case in CASES:
        found = two_passes(pair, upscaler, *case)
        print(f"{upscaler} {found:.1f} dB")
        assert found >= LEAST_DB


@pytest.mark.parametrize("size", [(5, 7), (12, 9), (3, 4), (1, 30)])
def test_latents_are_made_larger_as_torch_does(size):
    latents = np.random.default_rng(0).standard_normal((2, 4, 5, 7)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(latents).double(), size, mode="bilinear")
    np.testing.assert_allclose(bilinear(latents, *size), expected, rtol=0, atol=1e-6)
