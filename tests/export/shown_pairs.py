"""A UNet that is shown a mask and a masked image, or an image, on both sides; and the requests that are made of it."""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import (
    DiffusionPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
)
from PIL import Image

from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.request import Request
from tests.export.image_pairs import mask, picture
from tests.export.samplers import psnr

PROMPT = "a red apple"
SIZE = (80, 56)


@dataclass(frozen=True)
class Pair:
    """A small checkpoint on both sides."""

    ours: Pipeline
    theirs: DiffusionPipeline

    def psnr(self, **options):
        """The PSNR in dB of a request's pixels, not rounded."""
        request = Request(PROMPT, **{"guidance": 5.0, "seed": 0, "syntax": "plain", **options})
        run = self.ours.steps(request)
        got = np.clip(self.ours.decode(run.latents()) / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
        return psnr(got, self.reference(request, run.settings.seeds), 1.0)

    def difference(self, options, **changes):
        """The PSNR in dB of one request's pixels to those of another: how far what is changed has a say."""
        got, other = (
            np.asarray(self.ours.generate(PROMPT, seed=0, syntax="plain", **asked).images[0], np.float64)
            for asked in (options, options | changes)
        )
        return psnr(got, other, 255.0)

    def reference(self, request, seeds):
        """What diffusers draws."""
        sizes = dict(zip(("width", "height"), SIZE, strict=True))
        own = {
            StableDiffusionInpaintPipeline: sizes,
            StableDiffusionXLInpaintPipeline: sizes,
            StableDiffusionInstructPix2PixPipeline: {},
            StableDiffusionXLInstructPix2PixPipeline: sizes,
        }[type(self.theirs)]
        if "image" in self.ours.bundle.manifest.extra_channels:
            own |= {"image_guidance_scale": request.image_guidance or 1.5}
        else:
            own |= {"mask_image": request.mask or Image.new("L", SIZE, 255), "strength": request.strength or 1.0}
        return self.theirs(
            PROMPT,
            image=request.init or picture(SIZE),
            **({"negative_prompt": request.negative} if request.negative else {}),
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            num_images_per_prompt=request.batch,
            output_type="np",
            **own,
        ).images


MASKED = {"init": picture(SIZE), "mask": mask(SIZE)}
INPAINTING = [
    {"steps": 2, "strength": 1.0, "negative": "blue", "batch": 3, **MASKED},
    {"steps": 1, "strength": 1.0, **MASKED},
    {"steps": 4, "strength": 0.5, "guidance": 1.0, **MASKED},
]
EDITING = [
    {"steps": 2, "negative": "blue", "image_guidance": 2.5, "batch": 3, "init": picture(SIZE)},
    {"steps": 1, "init": picture(SIZE)},
    {"steps": 2, "image_guidance": 1.0, "init": picture(SIZE)},
    {"steps": 2, "guidance": 1.0, "init": picture(SIZE)},
]
