"""Inpainting by a mask, the same as diffusers' StableDiffusionInpaintPipeline to 45 dB and better, in float32.

On the built-in model, whose UNet has 4 channels, as in test_image_parity. Both sides take the mean of the encoder's
posterior: diffusers draws from it for the first image of a batch alone, and once more for a masked image that no such
UNet is shown.
"""

from functools import partial

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint as reference
from PIL import Image

import latentrt
from latentrt.images.mask import region
from latentrt.images.pillow import filled, to_pixels
from tests.export import builtin
from tests.export.image_pairs import ONLY_WHOLE, PART, WHOLE, ImagePair, asked, mask, picture, report
from tests.export.samplers import MARKS, NEGATIVE, PROMPT, SCHEDULERS, diffusers_pipeline, psnr, turns

pytestmark = MARKS

# Between two levels, diffusers puts the image back as noisy as at the lower one; see docs/samplers.md.
WRONG_BETWEEN = {"dpm2", "dpm2_a", "dpmpp_sde"}
CASES = [(1, 1.0, (96, 64), 3, 1.0), (5, 1.0, (71, 64), 1, 7.5)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    modules = builtin.build_unet(), builtin.build_vae(), builtin.build_text_encoder()
    text_to_image = diffusers_pipeline(tmp_path_factory.mktemp("built-in") / "tokenizer", *modules)
    theirs = StableDiffusionInpaintPipeline(**text_to_image.components, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    with latentrt.load("emoji") as ours:
        yield ImagePair(ours, theirs, builtin.config("scheduler"))


@pytest.fixture(autouse=True)
def mean(monkeypatch):
    monkeypatch.setattr(reference, "retrieve_latents", partial(reference.retrieve_latents, sample_mode="argmax"))


@pytest.mark.parametrize("sampler", [name for name in SCHEDULERS if name not in WRONG_BETWEEN])
def test_every_sampler(pair, sampler):
    prediction = "epsilon" if sampler == "pndm" else "v_prediction"
    spacing, sigmas = turns(sampler, prediction)
    set_up = pair.with_schedule(sampler, prediction, spacing, sigmas)
    case = WHOLE if sampler in ONLY_WHOLE else PART
    report({case: set_up.losses(asked(sampler, sigmas, spacing, case, "mean", mask(case[2])))})


def test_from_noise_alone(pair):
    set_up = pair.with_schedule("ddim", "v_prediction", "trailing", "normal")
    report({case: set_up.losses(asked("ddim", "normal", "trailing", case, "mean", mask(case[2]))) for case in CASES})


@pytest.mark.parametrize(("given", "padding"), [((150, 100), 8), ((60, 200), 0)])
def test_the_masked_part_alone(pair, given, padding):
    set_up = pair.with_schedule("ddim", "v_prediction", "trailing", "normal")
    options = {"steps": 3, "guidance": 4.0, "seed": 3, "init": picture(given), "strength": 0.7, "mask": mask(given)}
    [ours] = set_up.ours.generate(
        PROMPT, negative=NEGATIVE, width=96, height=64, mask_padding=padding, **options
    ).images
    [theirs] = set_up.theirs(
        PROMPT,
        image=picture(given),
        mask_image=mask(given),
        strength=0.7,
        negative_prompt=NEGATIVE,
        num_inference_steps=3,
        guidance_scale=4.0,
        width=96,
        height=64,
        padding_mask_crop=padding,
        generator=torch.Generator().manual_seed(3),
    ).images
    assert ours.size == theirs.size == given
    assert psnr(np.asarray(ours, np.float64), np.asarray(theirs, np.float64), 255.0) >= 45
    kept = np.asarray(mask(given)) == 0
    np.testing.assert_array_equal(np.asarray(ours)[kept], np.asarray(picture(given))[kept])


def test_the_masked_part_is_found_as_the_reference_finds_it():
    draw = np.random.default_rng(0)
    for _ in range(100):
        size = tuple(draw.integers(1, 200, 2).tolist())
        (left, right), (top, bottom) = (sorted(draw.integers(0, side, 2).tolist()) for side in size)
        image = Image.new("L", size)
        image.paste(255, (left, top, right + 1, bottom + 1))
        width, height = (draw.integers(1, 20, 2) * 8).tolist()
        padding = int(draw.integers(0, 60))
        theirs = VaeImageProcessor.get_crop_region(image, width, height, padding)
        assert region(image, width / height, padding) == theirs


@pytest.mark.parametrize("size", [(64, 48), (64, 64), (40, 96), (96, 16)])
@pytest.mark.parametrize("given", [(64, 48), (100, 37), (37, 100), (200, 200)])
def test_the_part_is_filled_as_the_reference_fills_it(size, given):
    theirs = VaeImageProcessor().preprocess(picture(given), height=size[1], width=size[0], resize_mode="fill")
    np.testing.assert_array_equal(to_pixels(filled(picture(given), *size)), theirs.numpy())
