"""A small checkpoint with IP-Adapters on both sides, and the requests that are made of it.

"style" is an IP-Adapter, "face" an IP-Adapter Plus.
"""

from dataclasses import replace

import torch

import latentrt
from latentrt_export.export import ExportOptions
from tests.export.controls import noise
from tests.export.image_prompts import PROMPTS, saved_prompts
from tests.export.pairs import Pair
from tests.export.tiny_families import TINY, reference
from tests.export.untraced import untraced

IMAGE, OTHER = noise(50, 33), noise(31, 64, seed=1)
STYLE, FACE = latentrt.Control("style", IMAGE, 0.5), latentrt.Control("face", OTHER, 1.5)


def prompted_pair(folder):
    """A small checkpoint with IP-Adapters on both sides, and how close the pictures without them are.

    Ours runs in torch; test_families.py has the graphs.
    """
    theirs = reference(TINY["sd1"], folder / "tokenizers")
    theirs.save_pretrained(folder / "checkpoint")
    adapters = saved_prompts(theirs.unet, folder)
    ours = untraced(folder / "checkpoint", folder / "bundle", ExportOptions(image_prompts=adapters))
    pair = Pair("sd1", folder, ours, theirs, theirs.scheduler)
    plain = pair.psnr(guidance=5.0)
    theirs.load_ip_adapter(str(folder), subfolder="", weight_name=[one.path.name for one in adapters])
    return pair, plain


def losses(pair, controls, *, theirs=None, **options):
    """The PSNR in dB of our picture, and of the one that nothing prompts, against diffusers' pipeline."""
    images = {name: [one.image for one in controls if one.name == name] for name in PROMPTS}
    scales = {one.name: one.scale for one in controls}
    pair.theirs.set_ip_adapter_scale([scales.get(name, 0.0) for name in images])
    calls = {"ip_adapter_image": [own or [IMAGE] for own in images.values()], **(theirs or {})}
    return [pair.psnr(theirs=calls, controls=one, **options) for one in (controls, ())]


SEEDS = {"num_images_per_prompt": 3, "generator": [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)]}
CASES = {
    "one step, a batch": ([STYLE], {"steps": 1, "batch": 3, "guidance": 5.0}, SEEDS),
    "plus": ([FACE], {"steps": 2, "guidance": 5.0}, {}),
    "without guidance": ([FACE], {"steps": 2, "guidance": 1.0}, {}),
    "two at once": ([STYLE, FACE], {"steps": 2, "guidance": 5.0, "negative": "blue"}, {}),
    "two images for one": ([STYLE, FACE, replace(STYLE, image=OTHER)], {"steps": 2, "guidance": 5.0}, {}),
}
