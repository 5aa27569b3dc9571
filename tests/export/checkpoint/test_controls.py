"""ControlNets and T2I-Adapters: the pictures of diffusers' pipelines to 45 dB and better, in float32; what is refused.

On small random models whose last convolutions are random too: those of a new ControlNet are zeros, and show nothing.
"""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionControlNetImg2ImgPipeline, UNet2DConditionModel

import latentrt
from latentrt.errors import CheckpointError, RequestError
from latentrt.request.request import Request
from latentrt_export.build.cpu import build_cpu
from latentrt_export.checkpoint.controls import with_controls
from latentrt_export.checkpoint.load import load_checkpoint
from latentrt_export.checkpoint.named import NamedNetwork, check_names
from tests.export import compvis
from tests.export.control_pairs import ADAPTER_CASES, CANNY, CASES, DEPTH, EDGES, PROMPT, SIZE, Pair
from tests.export.controls import build_controlnet, noise
from tests.export.tiny_families import UNET
from tests.runtime.fake import psnr

pytestmark = pytest.mark.usefixtures("one_thread")

LEAST_DB = 45.0


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    pair = Pair(tmp_path_factory.mktemp("sd1"))
    yield pair
    pair.ours.close()


@pytest.mark.parametrize(("controls", "options"), CASES.values(), ids=CASES.keys())
def test_draws_what_diffusers_draws(sd1, controls, options):
    got, uncontrolled = sd1.losses(*controls, **options)
    assert got >= LEAST_DB > uncontrolled + 5 or got > uncontrolled + 60


@pytest.mark.parametrize(("controls", "options"), ADAPTER_CASES.values(), ids=ADAPTER_CASES.keys())
@pytest.mark.filterwarnings("ignore:The decode_latents method is deprecated:FutureWarning")
def test_adapters_draw_what_diffusers_draws(sd1, controls, options):
    got, uncontrolled = sd1.adapter_losses(*controls, **options)
    assert got >= LEAST_DB and got > uncontrolled + 50


def test_from_an_image(sd1):
    init = noise(80, 56, seed=2)
    control = latentrt.Control("canny", EDGES, 0.8, 0.0, 0.5)
    theirs = {"image": init, "control_image": EDGES, "strength": 0.7}
    options = {"steps": 6, "init": init, "strength": 0.7, "posterior": "sample", "theirs": theirs}
    got, uncontrolled = sd1.losses(control, kind=StableDiffusionControlNetImg2ImgPipeline, **options)
    assert got >= LEAST_DB and got > uncontrolled + 50


def test_without_controls_the_networks_are_not_called_and_the_picture_is_the_plain_one(sd1, monkeypatch):
    for name in ("control_canny", "hint_canny", "adapter_depth", "adapter_sketch"):
        monkeypatch.delitem(sd1.ours.engines, name)
    request = Request(PROMPT, seed=0, steps=2, guidance=5.0, **SIZE)
    expected = sd1.theirs(
        PROMPT,
        num_inference_steps=2,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
        **SIZE,
    ).images
    error = np.sqrt(np.mean((sd1.pixels(request) - expected) ** 2))
    assert 20 * math.log10(1 / error) > 110


def test_the_picture_has_the_images_size_and_says_what_steered_it(sd1):
    control = latentrt.Control("canny", noise(75, 60), 0.5)
    result = sd1.ours.generate(PROMPT, seed=0, steps=1, controls=[control])
    assert result.images[0].size == (72, 56)
    [record] = result.settings.record()["controls"]
    assert record.pop("image")["size"] == [75, 60]
    assert record == {"name": "canny", "scale": 0.5, "start": 0.0, "end": 1.0}


@pytest.mark.parametrize("control", [CANNY, DEPTH], ids=["controlnet", "adapter"])
def test_windows_see_their_part_of_what_steers_them(sd1, control):
    """A window as large as the picture gives the whole picture; of smaller ones, each sees what steers its part."""
    request = Request(PROMPT, seed=0, steps=2, guidance=5.0, width=160, height=32, controls=[control], stride=32)
    whole, one = sd1.pixels(replace(request, stride=None)), sd1.pixels(replace(request, window=160))
    np.testing.assert_array_equal(one, whole)
    image = EDGES.resize((160, 32))
    image.paste(0, (80, 0, 160, 32))
    all_of_it, half = (
        sd1.ours.steps(replace(request, window=32, controls=[replace(control, image=one)])).latents()
        for one in (EDGES.resize((160, 32)), image)
    )
    difference = np.abs(all_of_it - half).mean((0, 1, 2))
    assert difference[:4].max() < difference[-8:].min() / 10


REFUSED = {
    "unknown": ({"controls": [latentrt.Control("edges", EDGES)]}, "got 'edges', but .* has one of canny, depth"),
    "empty part": ({"controls": [latentrt.Control("canny", EDGES, 1.0, 0.5, 0.5)]}, "the end after the start"),
    "past the end": ({"controls": [latentrt.Control("canny", EDGES, 1.0, 0.0, 1.5)]}, "control canny: end"),
    "no number": ({"controls": [latentrt.Control("canny", EDGES, math.nan)]}, "control canny: scale"),
    "unreadable": ({"controls": [latentrt.Control("canny", __file__)]}, "control canny: .* not a readable image"),
    "no control": ({"controls": ["canny"]}, "expected a list of latentrt.Control"),
    "nothing to guess by": ({"guess": True}, "guess: got it without a ControlNet"),
    "adapters do not guess": ({"guess": True, "controls": [DEPTH]}, "guess: got it without a ControlNet"),
    "another part": (
        {"controls": [CANNY], "init": noise(60, 60), "mask": noise(60, 60).convert("L"), "mask_padding": 4},
        "control canny: got 80x56 pixels, expected 60x60",
    ),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_requests_that_are_refused(sd1, options, message):
    with pytest.raises(RequestError, match=message):
        sd1.ours.steps(Request(PROMPT, **options))


@pytest.mark.parametrize("prefix", ["control_model.", ""])
def test_single_file_holds_the_same_tensors(sd1, tmp_path, prefix):
    network = build_controlnet(sd1.theirs.unet, hint=(16, 32, 96, 256))
    tensors, file = compvis.control_tensors(network), tmp_path / "canny.safetensors"
    compvis.save_file({prefix + key.removeprefix("control_model."): t for key, t in tensors.items()}, file)
    checkpoint = load_checkpoint(sd1.folder / "checkpoint")
    got = with_controls(checkpoint, [NamedNetwork("canny", file)]).controls["canny"].load().state_dict()
    expected = network.state_dict()
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[key], expected[key]) for key in expected)


def misfit(folder, **changes):
    """Writes a ControlNet whose config is not a small checkpoint's; returns its folder."""
    known = {key: value for key, value in changes.items() if key != "global_pool_conditions"}
    network = build_controlnet(UNet2DConditionModel(**{**UNET, **known}))
    network.register_to_config(global_pool_conditions=changes.get("global_pool_conditions", False))
    network.save_pretrained(folder)
    return folder


PLAIN = {
    "down_block_types": ("DownBlock2D",) * 2,
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("UpBlock2D",) * 2,
}
XL = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 72}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cross_attention_dim": 48}, "cross_attention_dim is 48, expected 32"),
        ({"block_out_channels": (32, 96)}, "block_out_channels"),
        ({"layers_per_block": 2}, "layers_per_block"),
        (XL, "addition_embed_type is text_time, expected None"),
        (PLAIN, "it has no cross-attention, expected some"),
        ({"global_pool_conditions": True}, "global_pool_conditions is True, expected False"),
    ],
)
def test_networks_that_do_not_fit(sd1, tmp_path, changes, message):
    checkpoint = load_checkpoint(sd1.folder / "checkpoint")
    with pytest.raises(CheckpointError, match=message):
        with_controls(checkpoint, [NamedNetwork("canny", misfit(tmp_path / "network", **changes))])


def test_networks_that_are_none_and_names_that_are_none(sd1, tmp_path):
    checkpoint = load_checkpoint(sd1.folder / "checkpoint")
    with pytest.raises(CheckpointError, match="no ControlNet at"):
        with_controls(checkpoint, [NamedNetwork("canny", tmp_path / "nothing")])
    for names in (("Canny edges",), ("../canny",), ("canny", "canny")):
        with pytest.raises(CheckpointError, match="got the name"):
            check_names([NamedNetwork(name, sd1.folder / "canny") for name in names])


def test_graphs_are_optimised_for_the_cpu_and_draw_the_same(sd1, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(sd1.folder / "bundle", folder)
    built = {one.component for one in build_cpu(folder)}
    assert built == sd1.ours.bundle.manifest.components.keys()
    request = Request(PROMPT, seed=0, steps=2, guidance=5.0, **SIZE, controls=[CANNY])
    with latentrt.load(folder, engine="onnxruntime") as ours:
        assert ours.engines["control_canny"].optimised
        [got] = ours.generate(**vars(request)).images
    [expected] = sd1.ours.generate(**vars(request)).images
    assert psnr(got, expected) > 60
