"""UNets that are shown a mask and a masked image, or an image: what diffusers' pipelines of them draw, in float32.

Random weights, modules in torch; one of each is exported, run and built as well.
"""

import json
import shutil
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint
from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl_inpaint

from latentrt.engines import open_engines
from latentrt.errors import CheckpointError
from latentrt_export.build.tensorrt import BuildOptions, build
from latentrt_export.checkpoint.families import FAMILIES
from latentrt_export.checkpoint.load import load_checkpoint
from latentrt_export.checkpoint.markers import Declared
from latentrt_export.checkpoint.recognition import FIRST_LAYER
from latentrt_export.checkpoint.single_file import configs_folder, configs_in
from latentrt_export.components.denoiser import unet_parts
from latentrt_export.components.parts import extra_channels
from latentrt_export.export import write_component
from tests.export.image_pairs import mask, picture
from tests.export.parts import written
from tests.export.shown_pairs import EDITING, INPAINTING, MASKED, SIZE, Pair
from tests.export.tiny_families import SHOWN, reference, save_file
from tests.export.untraced import untraced
from tests.sweep import sweep

pytestmark = [
    sweep,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*initial images.*:FutureWarning"),
]

LEAST_DB = 45.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Writes a small checkpoint, once."""

    @cache
    def folder(name):
        path = tmp_path_factory.mktemp(name)
        reference(SHOWN[name], path / "tokenizers").save_pretrained(path / "checkpoint")
        return path

    return folder


@pytest.fixture(scope="module")
def pairs(folders):
    """Makes a checkpoint's pair, once."""

    @cache
    def pair(name):
        folder = folders(name)
        theirs = reference(SHOWN[name], folder / "tokenizers")
        return Pair(untraced(folder / "checkpoint", folder / "untraced"), theirs)

    return pair


@pytest.fixture
def mean(monkeypatch):
    """Has diffusers take the mean of the posterior."""
    for module in (pipeline_stable_diffusion_inpaint, pipeline_stable_diffusion_xl_inpaint):
        monkeypatch.setattr(module, "retrieve_latents", partial(module.retrieve_latents, sample_mode="argmax"))


def worst(pair, cases):
    """The lowest PSNR of all cases, of which none may be under the gate."""
    found = [pair.psnr(**case) for case in cases]
    print(f"{min(found):.1f} dB", [f"{x:.1f}" for x in found])
    assert min(found) >= LEAST_DB
    return min(found)


@pytest.mark.parametrize(
    ("name", "cases"), [("inpaint", INPAINTING), ("sd2-inpaint", INPAINTING[:1]), ("sdxl-inpaint", INPAINTING[:1])]
)
def test_inpainting(pairs, mean, name, cases):
    worst(pairs(name), cases)
    assert pairs(name).difference(INPAINTING[0], mask=mask(SIZE).point(lambda grey: 255 - grey)) < 70


def test_a_masked_image_is_drawn_after_the_noise(pairs):
    cases = [{"steps": 2, "strength": strength, "posterior": "sample", **MASKED} for strength in (1.0, 0.5)]
    worst(pairs("inpaint"), cases)


def test_from_text_alone_all_is_painted(pairs, mean):
    worst(pairs("inpaint"), [{"steps": 2, "width": SIZE[0], "height": SIZE[1]}])


@pytest.mark.parametrize(("name", "cases"), [("pix2pix", EDITING), ("sdxl-pix2pix", EDITING[:1])])
def test_editing(pairs, name, cases):
    worst(pairs(name), cases)
    assert pairs(name).difference(EDITING[0], image_guidance=1.5) < 70


@pytest.mark.parametrize("name", ["inpaint", "sd2-inpaint", "sdxl-pix2pix"])
def test_single_file_holds_the_same_tensors(folders, name):
    folder = folders(name)
    save_file(SHOWN[name], folder / "single.safetensors")
    single = load_checkpoint(folder / "single.safetensors", configs=folder / "configs")
    whole = load_checkpoint(folder / "checkpoint")
    assert single.family == whole.family and extra_channels(single) == extra_channels(whole)
    for name, component in whole.components.items():
        got, expected = single.components[name].load().state_dict(), component.load().state_dict()
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[key], expected[key]) for key in expected), name


def test_configs_of_single_files_need_not_know_the_channels(folders):
    """And a Stable Diffusion 2 of 9 channels predicts noise, where one of 4 predicts v unless it is said."""
    folder = folders("inpaint")
    file = folder / "configs" / "unet.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"in_channels": 4}))
    found = load_checkpoint(folder / "single.safetensors", configs=folder / "configs")
    assert [one.name for one in extra_channels(found)] == ["mask", "masked_image"]
    [family] = (one for one in FAMILIES if one.name == "sd2")

    def prediction_of(channels, declared=None):
        shapes = {FIRST_LAYER: (320, channels, 3, 3)}
        known = configs_in(configs_folder(family, None, shapes, Declared(declared)), family, shapes)
        return known["scheduler"]["prediction_type"], known["unet"]["sample_size"]

    assert prediction_of(9) == prediction_of(4, "epsilon") == ("epsilon", 64)
    assert prediction_of(4) == prediction_of(4, "v_prediction") == ("v_prediction", 96)


def test_an_editing_model_of_another_schedule_is_refused(folders, tmp_path):
    shutil.copytree(folders("sdxl-pix2pix") / "checkpoint", tmp_path / "copy")
    index = tmp_path / "copy" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"is_cosxl_edit": True}))
    with pytest.raises(CheckpointError, match="is_cosxl_edit in its model_index.json is true, expected false"):
        load_checkpoint(tmp_path / "copy")


def test_graphs_compute_the_same_and_build_with_tensorrt_rtx(folders, pairs, tmp_path, monkeypatch):
    """UNets of both kinds are traced; one is drawn with on a CPU, both are built for a GPU that is not here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder, parts = tmp_path / "parts", {}
    folder.mkdir()
    for kind, name in (("inpaint", "unet"), ("pix2pix", "editing")):
        *_, part = unet_parts(load_checkpoint(folders(kind) / "checkpoint").load_unet())
        parts[name] = write_component(replace(part, name=name), folder, "w16", lambda line: None)
    whole = pairs("inpaint").ours
    bundle = written(folder, whole.bundle, parts)
    drawing = whole.with_engines({"unet": open_engines("onnxruntime", bundle)["unet"]})
    options = {"steps": 2, "seed": 0, "guidance": 5.0, "init": picture(SIZE), "mask": mask(SIZE)}
    got, expected = (np.asarray(one.generate("a", **options).images[0]) for one in (drawing, whole))
    assert np.abs(got.astype(int) - expected).max() <= 1
    plans = list(build(folder, BuildOptions("tensorrt-rtx", ("sm86",), sizes=(SIZE,), batches=(2,))))
    assert [plan.component for plan in plans] == [*parts]
    for plan in plans:
        assert plan.floats == "fp16"
        assert plan.bytes > bundle.path(parts[plan.component].file).stat().st_size / 2
