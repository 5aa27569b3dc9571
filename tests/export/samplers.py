"""One checkpoint of Stable Diffusion 1 on both sides, under each sampler that diffusers has."""

import inspect
import itertools
import math
from dataclasses import dataclass, replace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.settings import resolve
from tests.export import tiny

MARKS = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*scalar:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Should have t[ab]:UserWarning"),  # of torchsde, for the last bit of a level
]

PROMPT, NEGATIVE = "a red apple", "blue"
SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "pndm": "PNDMScheduler",
    "lms": "LMSDiscreteScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpm2": "KDPM2DiscreteScheduler",
    "dpm2_a": "KDPM2AncestralDiscreteScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "dpmpp_sde": "DPMSolverSDEScheduler",
    "unipc": "UniPCMultistepScheduler",
    "deis": "DEISMultistepScheduler",
    "lcm": "LCMScheduler",
    "tcd": "TCDScheduler",
}
# Where diffusers has them: each of its classes takes what it knows of these. k-diffusion's and A1111's Brownian noise
# has a seed for each image; diffusers' has one for the batch, which so is one image.
CONFIG = {"skip_prk_steps": True, "clip_sample": False}
ONE_IMAGE = {"dpmpp_sde"}
KARRAS = {"lms", "euler", "heun", "dpm2", "dpm2_a", "dpmpp_2m", "dpmpp_sde", "unipc"}
SPACINGS = ("leading", "trailing", "linspace")


@dataclass(frozen=True)
class Pair:
    """A checkpoint on both sides, with the scheduler's config that both start from."""

    ours: Pipeline
    theirs: StableDiffusionPipeline
    scheduler: dict

    def with_schedule(self, sampler, prediction, spacing, sigmas):
        """Returns the pair set to one combination; graphs do not depend on it, so nothing is exported again."""
        kind = getattr(diffusers, SCHEDULERS[sampler])
        known = inspect.signature(kind.__init__).parameters
        choice = {"prediction_type": prediction, "timestep_spacing": spacing, "use_karras_sigmas": sigmas == "karras"}
        config = {**self.scheduler, **CONFIG, **choice}
        self.theirs.scheduler = kind(**{name: value for name, value in config.items() if name in known})
        bundle = self.ours.bundle
        schedule = replace(bundle.manifest.schedule, prediction=prediction)
        if "rescale_betas_zero_snr" not in known:
            schedule = replace(schedule, zero_terminal_snr=False)
        bundle = replace(bundle, manifest=replace(bundle.manifest, schedule=schedule))
        return replace(self, ours=Pipeline(bundle, self.ours.tokenizer, self.ours.engines))

    def losses(self, request):
        """Returns the PSNR of the final latents and of the pixels for one request."""
        settings = resolve(request, self.ours.bundle.manifest)
        self.theirs.scheduler.noise_sampler_seed = settings.seeds[0]  # which only the Brownian one looks at
        *_, last = itertools.islice(self.ours.steps(request), settings.steps)
        kept = []

        def keep(_pipeline, _index, _timestep, tensors):
            kept.append(tensors["latents"])
            return tensors

        images = self.theirs(
            request.prompt,
            negative_prompt=request.negative,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance.scale,
            eta=settings.options.get("gamma", 0.0),  # what its step of TCD calls eta; others that have it leave it at 0
            num_images_per_prompt=request.batch,
            width=settings.width,
            height=settings.height,
            generator=[torch.Generator().manual_seed(seed) for seed in settings.seeds],
            output_type="np",
            callback_on_step_end=keep,
        ).images
        pixels = np.clip(self.ours.decode(last.latents) / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
        latents = kept[-1].numpy()
        return psnr(last.latents, latents, float(np.ptp(latents))), psnr(pixels, images, 1.0)


def psnr(got, reference, span):
    """Returns the PSNR in dB, inf where nothing differs."""
    assert got.shape == reference.shape
    assert np.isfinite(reference).all()
    error = math.sqrt(np.mean((got.astype(np.float64) - reference) ** 2))
    return 20 * math.log10(span / error) if error else math.inf


def diffusers_pipeline(folder, unet, vae, text_encoder):
    """Returns the reference's pipeline around three modules; its scheduler is exchanged for each combination."""
    tiny.save_tokenizer(folder)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(folder),
        unet=unet,
        scheduler=tiny.build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def turns(sampler, prediction):
    """Returns spacing and sigmas, which take turns from sampler to sampler."""
    turn = list(SCHEDULERS).index(sampler) + (prediction == "epsilon")
    spacing = SPACINGS[turn % 3]
    if sampler == "pndm" and spacing == "linspace":  # the reference goes wrong: see tests/parity/cases.py
        spacing = "trailing"
    return spacing, "karras" if sampler in KARRAS and turn % 2 else "normal"
