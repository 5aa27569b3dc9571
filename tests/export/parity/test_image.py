"""Image to image, the same as diffusers' StableDiffusionImg2ImgPipeline to 45 dB and better, in float32.

Same weights, prompt, image, strength, seeds and scheduler settings, on the built-in model: each side resizes the image
and encodes it, draws from the encoder's posterior, then the initial noise and what the sampler adds. Held against each
other are the final latents and the decoded pixels, as in `Pair`.
"""

from functools import partial

import numpy as np
import pytest
from diffusers import StableDiffusionImg2ImgPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img as reference

import latentrt
from latentrt.images.pillow import resized, to_pixels
from tests.export import builtin
from tests.export.image_pairs import ONLY_WHOLE, PART, WHOLE, ImagePair, asked, picture, report
from tests.export.samplers import MARKS, SCHEDULERS, diffusers_pipeline, turns
from tests.sweep import rest_swept

pytestmark = MARKS

CASES = [(1, 1.0, (96, 64), 3, 1.0), (7, 0.3, (71, 64), 1, 7.5)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    modules = builtin.build_unet(), builtin.build_vae(), builtin.build_text_encoder()
    text_to_image = diffusers_pipeline(tmp_path_factory.mktemp("built-in") / "tokenizer", *modules)
    theirs = StableDiffusionImg2ImgPipeline(**text_to_image.components, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    with latentrt.load("emoji") as ours:
        yield ImagePair(ours, theirs, builtin.config("scheduler"))


@pytest.mark.parametrize("sampler", rest_swept(SCHEDULERS, ["ddim", "pndm", "euler_a", "dpmpp_2m"]))
def test_every_sampler(pair, sampler):
    prediction = "epsilon" if sampler == "pndm" else "v_prediction"
    spacing, sigmas = turns(sampler, prediction)
    set_up = pair.with_schedule(sampler, prediction, spacing, sigmas)
    case = WHOLE if sampler in ONLY_WHOLE else PART
    report({case: set_up.losses(asked(sampler, sigmas, spacing, case, "sample"))})


def test_strengths_and_sizes(pair):
    set_up = pair.with_schedule("ddim", "v_prediction", "trailing", "normal")
    report({case: set_up.losses(asked("ddim", "normal", "trailing", case, "sample")) for case in CASES})


def test_the_mean_of_the_posterior(pair, monkeypatch):
    monkeypatch.setattr(reference, "retrieve_latents", partial(reference.retrieve_latents, sample_mode="argmax"))
    set_up = pair.with_schedule("euler_a", "v_prediction", "trailing", "normal")
    report({PART: set_up.losses(asked("euler_a", "normal", "trailing", PART, "mean"))})


@pytest.mark.parametrize("size", [(64, 48), (64, 64), (40, 96), (96, 8), (8, 8)])
@pytest.mark.parametrize("given", [(64, 48), (100, 37), (37, 100), (1, 1), (200, 200)])
def test_images_are_resized_as_the_reference_resizes_them(size, given):
    processor = VaeImageProcessor()
    for fit, mode in (("stretch", "default"), ("crop", "crop")):
        theirs = processor.preprocess(picture(given), height=size[1], width=size[0], resize_mode=mode)
        np.testing.assert_array_equal(to_pixels(resized(picture(given), *size, fit)), theirs.numpy())
