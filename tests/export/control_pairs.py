"""A small checkpoint with a ControlNet and T2I-Adapters on both sides, and the requests that are made of it."""

import itertools
import math
from dataclasses import replace

import numpy as np
import torch
from diffusers import MultiAdapter, StableDiffusionAdapterPipeline, StableDiffusionControlNetPipeline

import latentrt
from latentrt.request.request import Request
from latentrt_export.checkpoint.named import NamedNetwork
from latentrt_export.export import ExportOptions, export
from tests.export.adapters import build_adapter
from tests.export.controls import noise, saved_controlnet
from tests.export.tiny_families import TINY, reference

PROMPT = "a red apple"
SIZE = {"width": 80, "height": 56}
ADAPTERS = ("depth", "sketch")
EDGES, OTHER = noise(80, 56), noise(80, 56, seed=1)


class Pair:
    """A small checkpoint, its ControlNet, "canny", and its T2I-Adapters, "depth" and "sketch", on both sides."""

    def __init__(self, folder):
        self.folder, self.theirs = folder, reference(TINY["sd1"], folder / "tokenizers")
        self.theirs.save_pretrained(folder / "checkpoint")
        self.network = saved_controlnet(self.theirs.unet, folder / "canny")
        self.adapters = {name: build_adapter(name) for name in ADAPTERS}
        for name, network in self.adapters.items():
            network.save_pretrained(folder / name)
        controls, adapters = ([NamedNetwork(name, folder / name) for name in names] for names in (("canny",), ADAPTERS))
        options = ExportOptions(precision="w16", controls=tuple(controls), adapters=tuple(adapters))
        export(folder / "checkpoint", folder / "bundle", options)
        self.ours = latentrt.load(folder / "bundle", engine="onnxruntime")

    def losses(self, *controls, kind=StableDiffusionControlNetPipeline, theirs=None, **options):
        """The PSNR in dB of our pixels, not yet rounded, and of those without control, against diffusers'."""
        several = [one.image for one in controls] if len(controls) > 1 else controls[0].image
        scales = [control.scale for control in controls]
        calls = {
            "control_guidance_start": [control.start for control in controls],
            "control_guidance_end": [control.end for control in controls],
            "controlnet_conditioning_scale": scales if len(controls) > 1 else scales[0],
            "guess_mode": options.get("guess", False),
            **({"image": several, **SIZE} if theirs is None else theirs),
        }
        networks = [self.network] * len(controls) if len(controls) > 1 else self.network
        return self.against(kind(**self.theirs.components, controlnet=networks), calls, controls, **options)

    def adapter_losses(self, *controls, **options):
        """The same of T2I-Adapters."""
        parts = {name: one for name, one in self.theirs.components.items() if name != "image_encoder"}
        networks, scales = [self.adapters[one.name] for one in controls], [one.scale for one in controls]
        images = [one.image.convert("L") if one.name == "sketch" else one.image for one in controls]
        if len(controls) > 1:
            networks, scales, images = [MultiAdapter(networks)], [scales], [images]
        pipeline = StableDiffusionAdapterPipeline(**parts, adapter=networks[0], requires_safety_checker=False)
        calls = {"image": images[0], "adapter_conditioning_scale": scales[0], **SIZE}
        return self.against(pipeline, calls, controls, **options)

    def against(self, pipeline, calls, controls, **options):
        """The PSNR in dB of our pixels, and of those without controls, against a pipeline's."""
        request = Request(PROMPT, **{"seed": 0, "steps": 2, "guidance": 5.0, **SIZE, "controls": controls, **options})
        pipeline.set_progress_bar_config(disable=True)
        shared = {
            "num_inference_steps": request.steps,
            "guidance_scale": request.guidance,
            "num_images_per_prompt": request.batch,
            "generator": [torch.Generator().manual_seed(seed) for seed in range(request.batch)],
            "output_type": "np",
        }
        expected = pipeline(PROMPT, **shared, **calls).images
        pixels = [self.pixels(request), self.pixels(replace(request, controls=(), guess=False))]
        found = [20 * math.log10(1 / max(np.sqrt(np.mean((got - expected) ** 2)), 1e-9)) for got in pixels]
        print(f"{found[0]:.1f} dB, without {found[1]:.1f}")
        return found

    def pixels(self, request):
        """Our pixels in [0, 1], (batch, height, width, 3)."""
        run = self.ours.steps(request)
        *_, last = itertools.islice(run, run.total)
        return np.clip(self.ours.decode(last.latents) / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)


CANNY = latentrt.Control("canny", EDGES)
CASES = {
    "one step, a batch": ((CANNY,), {"steps": 1, "batch": 3}),
    "part of the steps": ((latentrt.Control("canny", EDGES, 0.5, 0.2, 0.8),), {"steps": 6}),
    "two at once": (
        (latentrt.Control("canny", EDGES, 0.5), latentrt.Control("canny", OTHER, 1.5, 0.0, 0.5)),
        {"steps": 4},
    ),
    "without guidance": ((CANNY,), {"guidance": 1.0}),
    "guess": ((CANNY,), {"guess": True}),
}
DEPTH, SKETCH = latentrt.Control("depth", EDGES, 0.7), latentrt.Control("sketch", OTHER, 1.5)
ADAPTER_CASES = {
    "one step, a batch": ((DEPTH,), {"steps": 1, "batch": 3}),
    "without guidance": ((DEPTH,), {"guidance": 1.0}),
    "of grey images": ((SKETCH,), {}),
    "two at once": ((DEPTH, SKETCH), {}),
}
