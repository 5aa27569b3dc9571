"""Comparisons made of numbers alone: what the tests of comparing, reports and pages share."""

import numpy as np

from latentrt.bundle.catalog import MODELS
from latentrt.bundle.folder import open_bundle
from latentrt.request.request import Request
from latentrt.request.settings import resolve
from latentrt_calib.evaluate.compare import BundleSummary, ComponentSize, compare
from latentrt_calib.evaluate.generate import Sample
from tests.calib.pictures import picture

MANIFEST = open_bundle(MODELS / "emoji", verify=False).manifest
REFERENCE = BundleSummary(
    "model",
    "a" * 64,
    40_000_000,
    {"unet": ComponentSize("fp32", 30_000_000), "vae_decoder": ComponentSize("fp32", 10**7)},
)
OTHER = BundleSummary(
    "model",
    "b" * 64,
    18_000_000,
    {"unet": ComponentSize("int8", 8_000_000), "vae_decoder": ComponentSize("fp32", 10**7)},
)


def drawing(prompt, off=0, *, seed=0, steps=3, size=(16, 24)):
    """A drawing whose every pixel is `off` too bright, and whose latents are off by `off` percent, times the step."""
    settings = resolve(Request(prompt, seed=seed, steps=steps), MANIFEST)
    latents = np.stack([np.ones((4, 2, 3)) * (1 + off / 100 * step) for step in range(1, steps + 1)])
    return Sample(settings, (picture(size) // 2 + off).astype(np.uint8), latents.astype(np.float32))


def comparison(offs=(1, 4, 0, 2, 8, 3, 5), *, prompts=None, **options):
    """A comparison of as many pictures as there are `offs`."""
    prompts = prompts or [f"picture {index}" for index in range(len(offs))]
    references = [drawing(prompt, seed=seed, **options) for seed, prompt in enumerate(prompts)]
    others = [
        drawing(prompt, off, seed=seed, **options) for seed, (prompt, off) in enumerate(zip(prompts, offs, strict=True))
    ]
    return compare(REFERENCE, OTHER, references, others)
