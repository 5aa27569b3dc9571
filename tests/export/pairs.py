"""A family's small checkpoint on both sides: exported and opened here, and diffusers' own pipeline of it."""

import itertools
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline, SchedulerMixin

import latentrt
from latentrt.export.settings import sampler_of, schedule_of
from latentrt.export.write import ExportOptions, export
from latentrt.pipeline import Pipeline
from latentrt.request import Request
from tests.export.tiny_families import TINY, reference

PROMPT = "a red (apple"
# What is padding in Stable Diffusion 2's vocabulary. SDXL's two encoders disagree on it in diffusers: docs/prompts.md.
PADDING = {"sd2": "!"}
SIZE = {"width": 80, "height": 56}


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


def opened_pair(name: str, folder: Path, **options) -> Pair:
    """Writes a family's checkpoint into `folder`, exports and opens it. options: of the export.

    Its weights are stored in fp16, which holds them, and computed with in fp32.
    """
    theirs = reference(TINY[name], folder / "tokenizers")
    theirs.save_pretrained(folder / "checkpoint")
    export(folder / "checkpoint", folder / "bundle", ExportOptions(**{"precision": "w16", **options}))
    return Pair(name, folder, latentrt.load(folder / "bundle", engine="onnxruntime"), theirs, theirs.scheduler)


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
