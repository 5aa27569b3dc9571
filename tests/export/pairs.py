"""A family's small checkpoint on both sides: exported and opened here, and diffusers' own pipeline of it."""

import inspect
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    ControlNetModel,
    DiffusionPipeline,
    SchedulerMixin,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetPipeline,
)

import latentrt
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.control import Control
from latentrt.request.request import Request
from latentrt_export.checkpoint.named import NamedNetwork
from latentrt_export.checkpoint.scheduler import sampler_of, schedule_of
from latentrt_export.export import ExportOptions, export
from tests.export.adapters import build_adapter
from tests.export.controls import noise, saved_controlnet
from tests.export.image_prompts import PROMPTS, saved_prompts
from tests.export.tiny_families import TINY, module_of, reference

PROMPT = "a red (apple"
# What is padding in Stable Diffusion 2's vocabulary. SDXL's two encoders disagree on it in diffusers: docs/prompts.md.
PADDING = {"sd2": "!"}
SIZE = {"width": 80, "height": 56}
# How diffusers draws with a ControlNet, of the families whose small ones are tried here.
STEERED = {"sd2": StableDiffusionControlNetPipeline, "sdxl": StableDiffusionXLControlNetPipeline}


@dataclass(frozen=True)
class Pair:
    """A family's small checkpoint on both sides."""

    name: str
    folder: Path
    ours: Pipeline
    theirs: DiffusionPipeline
    scheduler: SchedulerMixin

    def with_scheduler(self, scheduler):
        """Returns the pair with another scheduler on both sides; graphs do not depend on it."""
        config = json.loads(scheduler.to_json_string())  # with the name of its class
        bundle = self.ours.bundle
        manifest = replace(
            bundle.manifest,
            schedule=schedule_of(config),
            defaults=replace(bundle.manifest.defaults, sampler=sampler_of(config)),
        )
        ours = Pipeline(replace(bundle, manifest=manifest), self.ours.tokenizer, self.ours.engines)
        return replace(self, ours=ours, scheduler=scheduler)

    def psnr(self, prompt=None, *, theirs=None, **options):
        """The PSNR in dB of one request's pixels, not yet rounded. theirs: how diffusers is called otherwise."""
        prompt = prompt or PROMPT + PADDING.get(self.name, "")
        request = Request(prompt, **{"seed": 5, "steps": 3, "syntax": "plain", **SIZE, **options})
        *_, last = itertools.islice(self.ours.steps(request), request.steps)
        got = np.clip(self.ours.decode(last.latents) / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
        calls = {
            **({"negative_prompt": request.negative} if request.negative else {}),
            "num_inference_steps": request.steps,
            "guidance_scale": request.guidance,
            "generator": torch.Generator().manual_seed(5),
            **({} if "image" in (theirs or {}) else SIZE),
        }
        self.theirs.scheduler = self.scheduler
        expected = self.theirs(**({"prompt": prompt, "output_type": "np"} | calls | (theirs or {}))).images
        return 20 * math.log10(1 / max(np.sqrt(np.mean((got - expected) ** 2)), 1e-9))


def exported(checkpoint: Path, folder: Path, options: ExportOptions) -> Pipeline:
    """Exports a checkpoint into `folder` and opens the bundle."""
    export(checkpoint, folder, options)
    return latentrt.load(folder, engine="onnxruntime")


def opened_pair(name: str, folder: Path, opened: Callable[..., Pipeline] = exported, **options) -> Pair:
    """Writes a family's checkpoint into `folder` and opens it. opened: what does the latter; options: of the export.

    Its weights are stored in fp16, which holds them, and computed with in fp32.
    """
    theirs = reference(TINY[name], folder / "tokenizers")
    theirs.save_pretrained(folder / "checkpoint")
    ours = opened(folder / "checkpoint", folder / "bundle", ExportOptions(**{"precision": "w16", **options}))
    return Pair(name, folder, ours, theirs, theirs.scheduler)


def steered_pair(name: str, folder: Path, opened: Callable[..., Pipeline] = exported, **options) -> Pair:
    """The same with a ControlNet, "canny", beside the UNet, and SDXL with a T2I-Adapter, "sketch", and IP-Adapters."""
    unet = module_of("unet", TINY[name].configs["unet"])
    saved_controlnet(unet, folder / "canny")
    others: dict[str, tuple[NamedNetwork, ...]] = {}
    if name == "sdxl":
        build_adapter("xl").save_pretrained(folder / "sketch")
        others = {
            "adapters": (NamedNetwork("sketch", folder / "sketch"),),
            "image_prompts": saved_prompts(unet, folder),
        }
    return opened_pair(name, folder, opened, controls=(NamedNetwork("canny", folder / "canny"),), **others, **options)


def steered(pair: Pair, **options) -> tuple[float, float]:
    """The PSNR in dB of a picture that the ControlNet steers for half of the steps, and of the same without it."""
    image, network = noise(**SIZE), ControlNetModel.from_pretrained(pair.folder / "canny")
    theirs = STEERED[pair.name](**pair.theirs.components, controlnet=network)
    theirs.set_progress_bar_config(disable=True)
    calls = {"image": image, "controlnet_conditioning_scale": 0.7, "control_guidance_end": 0.5}
    both, controls = replace(pair, theirs=theirs), [Control("canny", image, 0.7, 0.0, 0.5)]
    options = {"guidance": 5.0, "theirs": calls, **options}
    return both.psnr(controls=controls, **options), both.psnr(**options)


def adapted(pair: Pair) -> tuple[float, float]:
    """The same of SDXL's T2I-Adapter, which reads squares of 16 pixels: diffusers wants whole ones."""
    size = {"width": 96, "height": 64}
    image, taken = noise(**size), inspect.signature(StableDiffusionXLAdapterPipeline).parameters
    parts = {name: one for name, one in pair.theirs.components.items() if name in taken}
    theirs = StableDiffusionXLAdapterPipeline(**parts, adapter=build_adapter("xl"))
    theirs.set_progress_bar_config(disable=True)
    calls = {"image": image, "adapter_conditioning_scale": 0.7, "adapter_conditioning_factor": 0.5, **size}
    both, controls = replace(pair, theirs=theirs), [Control("sketch", image, 0.7, 0.0, 0.5)]
    got, plain = (both.psnr(guidance=5.0, steps=4, controls=one, theirs=calls, **size) for one in (controls, ()))
    return got, plain


def prompted(pair: Pair) -> tuple[float, float]:
    """The same of images for both of SDXL's IP-Adapters."""
    unet = module_of("unet", TINY[pair.name].configs["unet"])  # which is changed
    theirs = type(pair.theirs)(**{**pair.theirs.components, "unet": unet}, add_watermarker=False)
    theirs.set_progress_bar_config(disable=True)
    theirs.load_ip_adapter(str(pair.folder), subfolder="", weight_name=[f"{name}.safetensors" for name in PROMPTS])
    images, scales = [noise(50, 33), noise(31, 64, seed=1)], [0.5, 1.5]
    theirs.set_ip_adapter_scale(scales)
    both, calls = replace(pair, theirs=theirs), {"ip_adapter_image": images}
    controls = [Control(*one) for one in zip(PROMPTS, images, scales, strict=True)]
    got, plain = (both.psnr(guidance=5.0, steps=2, controls=one, theirs=calls) for one in (controls, ()))
    return got, plain


def handed_over(base: Pair, refiner: Pair) -> float:
    """The PSNR in dB of what the refiner makes of the base's latents after three of five steps."""
    options = {"steps": 5, "guidance": 5.0, "negative": "blue"}
    request = Request(PROMPT, seed=5, syntax="plain", end=0.6, **options, **SIZE)
    base.theirs.scheduler = base.scheduler
    calls = {"num_inference_steps": 5, "guidance_scale": 5.0, "generator": torch.Generator().manual_seed(5), **SIZE}
    latents = base.theirs(PROMPT, negative_prompt="blue", denoising_end=0.6, output_type="latent", **calls).images
    run = base.ours.steps(request)
    assert run.total == 3
    theirs = {"image": latents, "denoising_start": 0.6}
    return refiner.psnr(latents=run.latents(), start=0.6, theirs=theirs, **options)
