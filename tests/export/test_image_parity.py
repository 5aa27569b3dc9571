"""Image to image, the same as diffusers' StableDiffusionImg2ImgPipeline to 45 dB and better, in float32.

Same weights, prompt, image, strength, seeds and scheduler settings, on the built-in model: each side resizes the image
and encodes it, draws from the encoder's posterior, then the initial noise and what the sampler adds. Held against each
other are the final latents and the decoded pixels, as in test_parity.
"""

import itertools
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img as reference
from PIL import Image

import latentrt
from latentrt.image import resized, to_pixels
from latentrt.request import Request
from latentrt.settings import settle
from tests.export import builtin, test_parity
from tests.export.test_parity import NEGATIVE, ONE_IMAGE, PROMPT, SCHEDULERS, Pair, psnr, turns

pytestmark = test_parity.pytestmark

LEAST_DB = 45.0
# Where diffusers starts part way, it cuts pndm's list of timesteps amid the first step's two calls, and lms weighs
# slopes that it does not have; see docs/samplers.md.
ONLY_WHOLE = {"pndm", "lms"}
# Steps, strength, the image's size, batch, guidance. One for every sampler; the others for what none of them changes.
PART, WHOLE = (4, 0.75, (40, 53), 2, 4.0), (2, 1.0, (40, 53), 1, 4.0)
CASES = [(1, 1.0, (96, 64), 3, 1.0), (7, 0.3, (71, 64), 1, 7.5)]


@dataclass(frozen=True)
class ImagePair(Pair):
    """The same with an image to start from: `theirs` is the pipeline for that."""

    def losses(self, request):
        """Returns the PSNR of the final latents and of the pixels for one request."""
        settings = settle(request, self.ours.bundle.manifest)
        self.theirs.scheduler.noise_sampler_seed = settings.seeds[0]
        run = self.ours.steps(request)
        *_, last = itertools.islice(run, run.total)
        kept = []
        masked = {"mask_image": request.mask, "width": settings.width, "height": settings.height}
        images = self.theirs(
            request.prompt,
            image=request.init,
            strength=request.strength,
            negative_prompt=request.negative,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            eta=settings.options.get("gamma", 0.0),
            num_images_per_prompt=request.batch,
            generator=[torch.Generator().manual_seed(seed) for seed in settings.seeds],
            output_type="np",
            callback_on_step_end=lambda _pipeline, _index, _timestep, tensors: kept.append(tensors["latents"]) or {},
            **(masked if request.mask else {}),
        ).images
        pixels = np.clip(self.ours.decode(last.latents) / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
        latents = kept[-1].numpy()
        return psnr(last.latents, latents, float(np.ptp(latents))), psnr(pixels, images, 1.0)


def picture(size):
    """Returns a disc on a gradient, in colours that are not grey."""
    x, y = np.meshgrid(*(np.linspace(-1, 1, side) for side in size))
    channels = [x, y, np.where(np.hypot(x, y) < 0.6, 0.8, -x * y)]
    return Image.fromarray(((np.stack(channels, -1) / 2 + 0.5) * 255).round().astype(np.uint8))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    modules = builtin.build_unet(), builtin.build_vae(), builtin.build_text_encoder()
    text_to_image = test_parity.diffusers_pipeline(tmp_path_factory.mktemp("built-in") / "tokenizer", *modules)
    theirs = StableDiffusionImg2ImgPipeline(**text_to_image.components, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    with latentrt.load("emoji") as ours:
        yield ImagePair(ours, theirs, builtin.config("scheduler"))


def asked(sampler, sigmas, spacing, case, posterior, mask=None):
    """Returns the request for one of the cases."""
    steps, strength, size, batch, guidance = case
    return Request(
        PROMPT,
        NEGATIVE,
        steps,
        guidance,
        seed=5,
        sampler=sampler,
        sigmas=sigmas,
        spacing=spacing,
        batch=1 if sampler in ONE_IMAGE else batch,
        init=picture(size),
        strength=strength,
        posterior=posterior,
        mask=mask,
    )


def report(losses):
    """Fails with every case whose latents or pixels are under the gate."""
    print(f"worst: latents {min(x for x, _ in losses.values()):.1f} dB, {min(x for _, x in losses.values()):.1f} dB")
    assert not {case: loss for case, loss in losses.items() if not min(loss) >= LEAST_DB}


@pytest.mark.parametrize("sampler", SCHEDULERS)
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
