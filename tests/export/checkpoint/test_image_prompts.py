"""IP-Adapters: the same pictures as diffusers' `load_ip_adapter` to 45 dB and better, in float32; and what is refused.

On small random models.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor

from latentrt.errors import CheckpointError
from latentrt.images.pillow import square_crop
from latentrt.request.request import Request
from latentrt_export.checkpoint.image_prompts import with_image_prompts
from latentrt_export.checkpoint.load import load_checkpoint
from latentrt_export.checkpoint.named import NamedNetwork
from tests.export.controls import noise
from tests.export.image_prompt_pairs import CASES, FACE, STYLE, losses, prompted_pair
from tests.export.image_prompts import ENCODER, saved_encoder
from tests.export.pairs import SIZE

pytestmark = pytest.mark.usefixtures("one_thread")

LEAST_DB = 45.0


@pytest.fixture(scope="module")
def prompted(tmp_path_factory):
    """See `prompted_pair`."""
    return prompted_pair(tmp_path_factory.mktemp("prompted"))


@pytest.fixture
def pair(prompted):
    """Both sides."""
    return prompted[0]


@pytest.mark.parametrize(("controls", "options", "theirs"), CASES.values(), ids=CASES.keys())
def test_draws_what_diffusers_draws(pair, controls, options, theirs):
    got, without = losses(pair, controls, theirs=theirs, **options)
    print(f"{got:.1f} dB, without {without:.1f}")
    assert got >= LEAST_DB and got > without + 50


def test_from_an_image(pair):
    init = noise(80, 56, seed=2)
    theirs = {"image": init, "strength": 0.7}
    options = {"steps": 3, "guidance": 5.0, "init": init, "strength": 0.7, "posterior": "sample"}
    kind = StableDiffusionImg2ImgPipeline(**pair.theirs.components, requires_safety_checker=False)
    kind.set_progress_bar_config(disable=True)
    got, without = losses(replace(pair, theirs=kind), [STYLE, FACE], theirs=theirs, **options)
    print(f"{got:.1f} dB, without {without:.1f}")
    assert got >= LEAST_DB and got > without + 50


def test_the_plain_picture_calls_no_encoder(prompted, monkeypatch):
    pair, plain = prompted
    monkeypatch.delitem(pair.ours.engines, "image_encoder")
    assert plain > 110 and pair.ours.generate("x", steps=1, **SIZE).images


def test_an_image_works_in_its_steps_alone_and_gives_the_picture_no_size(pair):
    choices = ([], [STYLE], [replace(STYLE, start=0.5)], [replace(STYLE, end=0.5)])
    plain, whole, late, early = (
        [step.latents for step in pair.ours.steps(Request("x", seed=5, steps=2, controls=controls))]
        for controls in choices
    )
    assert (late[0] == plain[0]).all() and (early[0] == whole[0]).all()
    assert len({run[1].tobytes() for run in (plain, whole, late, early)}) == 4
    assert whole[0].shape == plain[0].shape


@pytest.mark.parametrize("size", [(30, 30), (31, 47), (64, 30), (17, 23), (300, 211), (7, 90)])
def test_images_are_cut_as_the_reference_cuts_them(size):
    """To the bit; the reference brings them to [0, 1] in float64."""
    side, image = ENCODER["image_size"], noise(*size)
    reference = CLIPImageProcessor(size=side, crop_size=side, do_normalize=False)
    expected = reference(image, return_tensors="np").pixel_values[0]
    np.testing.assert_array_equal(np.asarray(square_crop(image, side)).transpose(2, 0, 1), (expected * 255).round())


def misfit(file, source, change):
    """Writes an IP-Adapter's tensors after a change."""
    tensors = load_file(source)
    change(tensors)
    save_file(tensors, file)
    return file


WEIGHT = "ip_adapter.3.to_k_ip.weight"
CHANGES = {
    "another kind": ("style", lambda found: found.pop("image_proj.proj.weight"), "expected image_proj.proj.weight or"),
    "a layer less": ("face", lambda found: found.pop(WEIGHT), f"missing: {WEIGHT}"),
    "a layer more": ("face", lambda found: found.update(more=torch.ones(1)), "unexpected: more"),
    "another width": (
        "style",
        lambda found: found.update({WEIGHT: torch.ones(3, 32)}),
        rf"of another shape: {WEIGHT} \(got \(3, 32\), expected \(\d+, 32\)\)",
    ),
    "a type that is none": ("style", lambda found: found.update({WEIGHT: found[WEIGHT].int()}), "of a type other than"),
    "half a projection": ("face", lambda found: found.pop("image_proj.norm_out.bias"), "Missing key.*norm_out.bias"),
    "no layers": ("face", lambda found: found.pop("image_proj.proj_in.weight"), "proj_in.weight"),
}


@pytest.mark.parametrize(("name", "change", "message"), CHANGES.values(), ids=CHANGES.keys())
def test_files_that_do_not_fit(pair, tmp_path, name, change, message):
    folder = pair.folder
    file = misfit(tmp_path / "file.safetensors", folder / f"{name}.safetensors", change)
    with pytest.raises(CheckpointError, match=message):
        with_image_prompts(load_checkpoint(folder / "checkpoint"), [NamedNetwork(name, file)], folder / "image_encoder")


def test_encoders_that_do_not_fit_and_what_is_missing(pair, tmp_path):
    folder = pair.folder
    checkpoint, style, face = (
        load_checkpoint(folder / "checkpoint"),
        folder / "style.safetensors",
        folder / "face.safetensors",
    )
    saved_encoder(tmp_path / "narrow", projection_dim=16)
    saved_encoder(tmp_path / "wide", hidden_size=48)
    (tmp_path / "style.bin").touch()
    for file, encoder, message in (
        (style, tmp_path / "narrow", "takes features of width 24, expected 16, the encoder's projection_dim"),
        (face, tmp_path / "wide", "takes features of width 32, expected 48, the encoder's hidden_size"),
        (style, tmp_path / "nothing", "no image encoder at .*--image-encoder"),
        (tmp_path / "nothing.safetensors", folder / "image_encoder", "no IP-Adapter at"),
        (tmp_path / "style.bin", folder / "image_encoder", "is a pickle"),
    ):
        with pytest.raises(CheckpointError, match=message):
            with_image_prompts(checkpoint, [NamedNetwork("style", file)], encoder)
