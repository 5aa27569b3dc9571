"""Two passes on both sides: the second from the first's latents or pixels made larger."""

from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img as reference
from PIL.Image import Resampling

import latentrt
from latentrt.request.request import Request
from tests.export import builtin
from tests.export.samplers import NEGATIVE, PROMPT, Pair, diffusers_pipeline, psnr

UPSCALERS = ("latent", "lanczos")
# Steps, of the second pass, strength, scale, batch.
CASES = [(2, 1, 1.0, 1.5, 1), (3, 4, 0.5, 1.3, 3)]


@contextmanager
def built_in_pair(folder):
    """The built-in model on both sides, diffusers taking the mean of what the VAE encodes."""
    modules = builtin.build_unet(), builtin.build_vae(), builtin.build_text_encoder()
    theirs = diffusers_pipeline(folder / "tokenizer", *modules)
    mean = partial(reference.retrieve_latents, sample_mode="argmax")
    with latentrt.load("emoji") as ours, patch.object(reference, "retrieve_latents", mean):
        yield Pair(ours, theirs, builtin.config("scheduler")).with_schedule(
            "ddim", "v_prediction", "trailing", "normal"
        )


def two_passes(pair, upscaler, steps, more, strength, scale, batch, kind=StableDiffusionImg2ImgPipeline):
    """The PSNR in dB of both passes' pixels against diffusers' two pipelines, of which `kind` is the second."""
    second = kind.from_pipe(pair.theirs)
    second.set_progress_bar_config(disable=True)
    options = {"steps": steps, "seed": 0, "guidance": 4.0, "width": 64, "height": 48, "batch": batch}
    hires = {"hires": scale, "hires_steps": more, "hires_strength": strength, "hires_upscaler": upscaler}
    latents = pair.ours.steps(Request(PROMPT, NEGATIVE, **options, **hires)).latents()
    got = np.clip(pair.ours.decode(latents) / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
    rows, columns = (int(side * scale) // 8 for side in (48, 64))
    calls = {"negative_prompt": NEGATIVE, "guidance_scale": 4.0, "num_images_per_prompt": batch}

    def seeds():
        return [torch.Generator().manual_seed(seed) for seed in range(batch)]

    first = {"num_inference_steps": steps, "width": 64, "height": 48, "generator": seeds(), **calls}
    if upscaler == "latent":
        small = pair.theirs(PROMPT, output_type="latent", **first).images
        large = torch.nn.functional.interpolate(small, (rows, columns), mode="bilinear", antialias=False)
    else:
        pictures = pair.theirs(PROMPT, **first).images
        large = [picture.resize((8 * columns, 8 * rows), Resampling.LANCZOS) for picture in pictures]
    last = {"num_inference_steps": more, "strength": strength, "generator": seeds(), **calls}
    return psnr(got, second(PROMPT, image=large, output_type="np", **last).images, 1.0)
