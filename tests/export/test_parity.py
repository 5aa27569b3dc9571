"""The acceptance test: the same image as diffusers' StableDiffusionPipeline, to 50 dB and better, in float32.

Same weights, prompt, initial noise and scheduler settings. Held against each other are the final latents, over their
range, and the decoded pixels before they are rounded to 8 bits, over [0, 1].

On the small random checkpoint, exported here: every combination of sampler, prediction type, spacing and sigmas, each
at 1 and 2 steps with batch 1 and 3 and guidance 1 and 7.5, and at 20 steps with two of these four, on latents that are
not square. On the built-in checkpoint,
whose torch modules are made from the bundle's own weights, with zero terminal SNR: every sampler, spacing and sigmas
at 1, 2 and 20 steps with v prediction, and with epsilon for the samplers that keep the last sigma finite; even and odd
latents, batches and guidance take turns.
"""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, StableDiffusionPipeline
from transformers import CLIPTokenizer

import latentrt
from latentrt.export.write import ExportOptions, export
from latentrt.pipeline import Pipeline, initial_noise
from latentrt.request import Request, settle
from tests.export import builtin, tiny

# transformers asks for torchvision by a warning as soon as diffusers imports its pipelines.
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*torchvision.*"),
    # diffusers' sigma-space schedulers call np.array on a tensor, whose __array__ has no `copy` yet.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

LEAST_DB = 50.0
PROMPT, NEGATIVE = "a red apple", "blue"
SCHEDULERS = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
}
SPACINGS = ("leading", "trailing", "linspace")
# diffusers' DDIM knows no Karras sigmas.
WALKS = [("ddim", "normal"), *itertools.product(("euler", "dpmpp_2m"), ("normal", "karras"))]
# At sigma = inf, where DDIM starts with zero terminal SNR, a predicted noise says nothing of the clean latents: both
# sides divide by zero. So that combination is left out; the other two samplers stop at sigma = 4096.
ZERO_SNR = [("v_prediction", *walk) for walk in WALKS] + [("epsilon", *walk) for walk in WALKS if walk[0] != "ddim"]


@dataclass(frozen=True)
class Pair:
    """A checkpoint on both sides, with the scheduler's config that both start from."""

    ours: Pipeline
    theirs: StableDiffusionPipeline
    scheduler: dict

    def with_schedule(self, sampler, prediction, spacing, sigmas):
        """Returns the pair set to one combination; graphs do not depend on it, so nothing is exported again."""
        choice = {"prediction_type": prediction, "timestep_spacing": spacing}
        if sampler != "ddim":
            choice["use_karras_sigmas"] = sigmas == "karras"
        self.theirs.scheduler = SCHEDULERS[sampler].from_config({**self.scheduler, **choice})
        bundle = self.ours.bundle
        schedule = replace(bundle.manifest.schedule, prediction=prediction)
        bundle = replace(bundle, manifest=replace(bundle.manifest, schedule=schedule))
        return replace(self, ours=Pipeline(bundle, self.ours.tokenizer, self.ours.engines))

    def losses(self, request):
        """Returns the PSNR of the final latents and of the pixels for one request."""
        settings = settle(request, self.ours.bundle.manifest)
        noise = initial_noise(settings, 4, 8)
        *_, last = itertools.islice(self.ours.steps(request), settings.steps)
        kept = []

        def keep(_pipeline, _index, _timestep, tensors):
            kept.append(tensors["latents"])
            return tensors

        images = self.theirs(
            request.prompt,
            negative_prompt=request.negative,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            num_images_per_prompt=request.batch,
            width=settings.width,
            height=settings.height,
            latents=torch.from_numpy(noise),
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


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    tiny.save_diffusers_folder(folder / "checkpoint")
    export(folder / "checkpoint", folder / "bundle", ExportOptions())
    modules = tiny.build_unet(), tiny.build_vae(), tiny.build_text_encoder()
    theirs = diffusers_pipeline(folder / "tokenizer", *modules)
    with latentrt.load(folder / "bundle") as ours:
        # Not the underscored entry in which diffusers notes which values to take from the class instead.
        known = {key: value for key, value in tiny.build_scheduler().config.items() if not key.startswith("_")}
        yield Pair(ours, theirs, known)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    modules = builtin.build_unet(), builtin.build_vae(), builtin.build_text_encoder()
    with latentrt.load("emoji") as ours:
        yield Pair(ours, diffusers_pipeline(folder / "tokenizer", *modules), builtin.config("scheduler"))


def report(losses):
    """Fails with every request whose latents or pixels are under the gate."""
    print(f"worst: latents {min(x for x, _ in losses.values()):.1f} dB, {min(x for _, x in losses.values()):.1f} dB")
    under = {request: loss for request, loss in losses.items() if min(loss) < LEAST_DB}
    assert not under


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("sampler", "sigmas"), WALKS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_random_checkpoint(small, prediction, sampler, sigmas, spacing):
    pair = small.with_schedule(sampler, prediction, spacing, sigmas)
    cases = [*itertools.product((1, 2), (1, 3), (1.0, 7.5)), (20, 1, 7.5), (20, 3, 1.0)]
    losses = {}
    for steps, batch, guidance in cases:
        request = Request(PROMPT, NEGATIVE, steps, guidance, 5, 80, 56, sampler, sigmas, spacing, batch)
        losses[steps, batch, guidance] = pair.losses(request)
    report(losses)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("prediction", "sampler", "sigmas"), ZERO_SNR)
def test_built_in_checkpoint(trained, prediction, sampler, sigmas, spacing):
    pair = trained.with_schedule(sampler, prediction, spacing, sigmas)
    odd, even = (120, 136), (128, 96)
    turn = SPACINGS.index(spacing)
    cases = [(1, even, 3, 7.5), (2, odd, 3, 7.5), (2, even, 1, 1.0)]
    cases.append((20, *[(odd, 1, 7.5), (even, 1, 1.0), (even, 3, 7.5)][turn]))
    losses = {}
    for steps, (width, height), batch, guidance in cases:
        request = Request(PROMPT, NEGATIVE, steps, guidance, 0, width, height, sampler, sigmas, spacing, batch)
        losses[steps, width, batch, guidance] = pair.losses(request)
    report(losses)


@pytest.mark.parametrize("seed", [0, 7, 2**32 + 1])
def test_noise_is_what_a_torch_generator_draws_for_each_image(trained, seed):
    request = Request(PROMPT, seed=seed, width=120, height=136, batch=3)
    noise = initial_noise(settle(request, trained.ours.bundle.manifest), 4, 8)
    drawn = [torch.randn(1, 4, 17, 15, generator=torch.Generator().manual_seed(seed + k)) for k in range(3)]
    np.testing.assert_array_equal(noise, torch.cat(drawn))


def test_result_is_the_image_that_diffusers_rounds(trained):
    pair = trained.with_schedule("ddim", "v_prediction", "trailing", "normal")
    result = pair.ours.generate(PROMPT, negative=NEGATIVE, steps=4, guidance=4.0, seed=3, width=128, height=96)
    theirs = pair.theirs(
        PROMPT,
        negative_prompt=NEGATIVE,
        num_inference_steps=4,
        guidance_scale=4.0,
        width=128,
        height=96,
        generator=torch.Generator().manual_seed(3),
    ).images
    difference = np.asarray(result.images[0], int) - np.asarray(theirs[0], int)
    assert result.images[0].size == theirs[0].size == (128, 96)
    assert np.abs(difference).max() <= 1  # a value at .5 may be rounded either way
    assert np.mean(difference != 0) < 0.001
