"""Every family, from a checkpoint to a picture: diffusers' own pipeline of it draws the same to 45 dB, in float32.

Each family is exported from a diffusers folder; a single file in the original layout has to hold the same tensors.
"""

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

import latentrt
from latentrt.export.families import CONFIGS, FAMILIES, config_differences
from latentrt.export.load import BUILDERS, load_checkpoint
from latentrt.export.write import ExportOptions, export
from latentrt.pipeline import Pipeline
from latentrt.request import Request
from tests.export.tiny_families import TINY, reference, save_file

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*torchvision.*")]

LEAST_DB = 45.0
PROMPT = "a red (apple!"
SIZE = {"width": 80, "height": 56}


@dataclass(frozen=True)
class Pair:
    """A family's small checkpoint on both sides."""

    name: str
    folder: Path
    ours: Pipeline
    theirs: DiffusionPipeline

    def psnr(self, prompt=PROMPT, *, theirs=None, **options):
        """The PSNR in dB of one request's pixels, not yet rounded. theirs: how diffusers is called otherwise."""
        request = Request(prompt, **{"seed": 5, "steps": 3, "syntax": "plain", **SIZE, **options})
        *_, last = itertools.islice(self.ours.steps(request), request.steps)
        got = np.clip(self.ours.decode(last.latents) / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
        calls = {
            "negative_prompt": request.negative or None,
            "num_inference_steps": request.steps,
            "guidance_scale": request.guidance,
            "generator": torch.Generator().manual_seed(5),
            **SIZE,
        }
        expected = self.theirs(prompt, output_type="np", **(calls | (theirs or {}))).images
        return 20 * math.log10(1 / max(np.sqrt(np.mean((got - expected) ** 2)), 1e-9))


@pytest.fixture(scope="module", params=TINY)
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    theirs = reference(TINY[request.param], folder / "tokenizers")
    theirs.save_pretrained(folder / "checkpoint")
    export(folder / "checkpoint", folder / "bundle", ExportOptions())
    with latentrt.load(folder / "bundle") as ours:
        yield Pair(request.param, folder, ours, theirs)


@pytest.mark.parametrize("options", [{"guidance": 5.0, "negative": "blue"}, {"guidance": 1.0}], ids=["guided", "alone"])
def test_folder_draws_what_diffusers_draws(pair, options):
    psnr = pair.psnr(**options)
    print(f"{pair.name}: {psnr:.1f} dB")
    assert psnr >= LEAST_DB


def test_single_file_holds_the_same_tensors(pair):
    folder = pair.folder / "single"
    folder.mkdir()
    save_file(TINY[pair.name], folder / "single.safetensors")
    single = load_checkpoint(folder / "single.safetensors", configs=folder / "configs")
    whole = load_checkpoint(pair.folder / "checkpoint")
    assert single.family == whole.family
    assert single.components.keys() == whole.components.keys()
    for name, component in whole.components.items():
        got, expected = single.components[name].load().state_dict(), component.load().state_dict()
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[key], expected[key]) for key in expected), name


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_shipped_configs_are_of_their_family(family):
    folders = [folder for folder in CONFIGS.iterdir() if folder.name.startswith(family.configs.name)]
    for folder in folders:
        configs = {file.stem: json.loads(file.read_text()) for file in folder.iterdir()}
        assert config_differences(family, configs) == []
        assert all(config_differences(other, configs) for other in FAMILIES if other is not family)
        for name in configs.keys() - {"scheduler"}:
            BUILDERS[name](configs[name])
