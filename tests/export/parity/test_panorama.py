"""Windows over large pictures, the same as diffusers' StableDiffusionPanoramaPipeline to 45 dB and better, in float32.

On the built-in model, whose windows are of 16 latents where the reference's are of 64, and a quarter of that apart. One
image: the reference gives the images of a batch each other's prompts.
"""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPanoramaPipeline

import latentrt
from latentrt.request.request import Request
from latentrt.request.settings import resolve
from latentrt.sampling.tiling import decoded
from tests.export import builtin
from tests.export.samplers import MARKS, NEGATIVE, PROMPT, Pair, diffusers_pipeline, psnr

pytestmark = MARKS

LEAST_DB = 45.0
# One step straight, one at sigmas, several steps together; where noise is added, the reference draws for every window.
SAMPLERS = ["ddim", "euler", "dpmpp_2m"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    modules = builtin.build_unet(), builtin.build_vae(), builtin.build_text_encoder()
    text_to_image = diffusers_pipeline(tmp_path_factory.mktemp("built-in") / "tokenizer", *modules)
    theirs = StableDiffusionPanoramaPipeline(**text_to_image.components, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    theirs.get_views = partial(theirs.get_views, window_size=16, stride=4)
    with latentrt.load("emoji") as ours:
        yield Pair(ours, theirs, builtin.config("scheduler"))


@pytest.mark.parametrize(("sampler", "seamless"), [*((name, None) for name in SAMPLERS), ("ddim", "x")])
def test_panorama(pair, sampler, seamless):
    set_up = pair.with_schedule(sampler, "v_prediction", "trailing", "normal")
    height = 128 if seamless else 160
    request = Request(PROMPT, NEGATIVE, 2, 4.0, 5, 160, height, sampler, window=128, stride=32, seamless=seamless)
    settings = resolve(request, set_up.ours.bundle.manifest)
    *_, last = itertools.islice(set_up.ours.steps(request), settings.steps)
    kept = []
    images = set_up.theirs(
        request.prompt,
        negative_prompt=request.negative,
        num_inference_steps=2,
        guidance_scale=4.0,
        width=settings.width,
        height=settings.height,
        circular_padding=seamless == "x",
        generator=torch.Generator().manual_seed(5),
        output_type="np",
        callback_on_step_end=lambda _pipeline, _index, _timestep, tensors: kept.append(tensors["latents"]) or {},
    ).images
    latents = kept[-1].numpy()
    pixels = decoded(set_up.ours.decode, last.latents, 8, seamless)
    losses = (
        psnr(last.latents, latents, float(np.ptp(latents))),
        psnr(np.clip(pixels / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1), images, 1.0),
    )
    print(f"latents {losses[0]:.1f} dB, {losses[1]:.1f} dB")
    assert min(losses) >= LEAST_DB
