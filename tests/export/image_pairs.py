"""What runs start from on both sides: an image, under a mask or whole, and the requests that tests make of it."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageDraw

from latentrt.request.request import Request
from latentrt.request.settings import resolve
from tests.export.samplers import NEGATIVE, ONE_IMAGE, PROMPT, Pair, psnr

LEAST_DB = 45.0
# Where diffusers starts part way, it cuts pndm's list of timesteps amid the first step's two calls, and lms weighs
# slopes that it does not have; see docs/samplers.md.
ONLY_WHOLE = {"pndm", "lms"}
# Steps, strength, the image's size, batch, guidance. One for every sampler; the others for what none of them changes.
PART, WHOLE = (4, 0.75, (40, 53), 2, 4.0), (2, 1.0, (40, 53), 1, 4.0)


@dataclass(frozen=True)
class ImagePair(Pair):
    """The same with an image to start from: `theirs` is the pipeline for that."""

    def losses(self, request):
        """Returns the PSNR of the final latents and of the pixels for one request."""
        settings = resolve(request, self.ours.bundle.manifest)
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
            guidance_scale=settings.guidance.scale,
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


def mask(size):
    """Returns a mask whose white is off the middle and soft at its edge."""
    image = Image.new("L", size)
    width, height = size
    ImageDraw.Draw(image).ellipse((width // 3, height // 5, width - 9, height - 20), fill=255)
    return VaeImageProcessor.blur(image, 3)


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
