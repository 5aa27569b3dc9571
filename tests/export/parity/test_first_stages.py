"""Autoencoders alone: bundles against diffusers' modules, and what such a bundle can and cannot do."""

import json
import shutil
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import VQModel
from PIL import Image

import latentrt
from latentrt.bundle.folder import open_bundle
from latentrt.cli import main
from latentrt.errors import BundleError, RequestError
from latentrt_export.build.cpu import build_cpu
from latentrt_export.export import ExportOptions, export
from tests.export.first_stages import SMALL, built, saved
from tests.export.ldm import psnr
from tests.export.pairs import exported
from tests.export.untraced import untraced
from tests.sweep import sweep

pytestmark = [pytest.mark.usefixtures("one_thread"), sweep]

LEAST_DB, MOST = 100.0, 1e-4
# Sides in latents: square and not, and three at once.
SHAPES = ((1, 4, 6), (3, 5, 4))

# Traced, with a gate on every graph; the others run as divided modules, which takes a tenth of the time.
TRACED = ("vq-f4-noattn", "vq-f8", "kl-f8")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A function of a name: its folder's bundle, loaded once, and diffusers' module."""

    @cache
    def pair(name):
        folder, theirs = tmp_path_factory.mktemp(name), built(name)
        theirs.save_pretrained(folder / "folder")
        opened = exported if name in TRACED else untraced
        return opened(folder / "folder", folder / "bundle", ExportOptions()), theirs.requires_grad_(False)

    return pair


def pictures(batch, height, width, seed=0):
    """Pictures in [-1, 1]."""
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def means(module, image):
    """diffusers' latents of unit variance: of a KL autoencoder the mean."""
    found = module.encode(image)
    mean = found.latents if isinstance(module, VQModel) else found.latent_dist.mean
    return mean * module.config.scaling_factor


def decoded(module, latents):
    """diffusers' pictures of such latents; a VQ model looks them up in its codebook."""
    return module.decode(latents / module.config.scaling_factor).sample


def check(got, expected):
    """Asserts that pictures or latents are the reference's."""
    expected = expected.numpy()
    assert np.abs(got - expected).max() <= MOST * np.abs(expected).max()
    peak = np.abs(expected).max()
    assert psnr(got / peak, expected / peak) >= LEAST_DB


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_halves_and_round_trip_are_those_of_diffusers(opened, name, shape):
    ours, theirs = opened(name)
    batch, rows, columns = shape
    factor = ours.bundle.manifest.latents.factor
    assert factor == int(name.split("-")[1].removeprefix("f"))
    image = pictures(batch, rows * factor, columns * factor)
    latents = means(theirs, image)
    mean, _ = ours.encode(image.numpy())
    check(mean, latents)
    check(ours.decode(latents.numpy()), decoded(theirs, latents))
    check(ours.decode(mean), decoded(theirs, latents))


@pytest.mark.parametrize("name", ["vq-f8", "kl-f8"])
def test_a_codec_gives_the_reference_picture(opened, name):
    ours, theirs = opened(name)
    codec, pixels = latentrt.Codec(ours), np.random.default_rng(1).integers(0, 256, (48, 32, 3), np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    check(codec.encode(Image.fromarray(pixels)), means(theirs, image))
    expected = (decoded(theirs, means(theirs, image))[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy() * 255
    assert np.abs(np.asarray(codec.round_trip(Image.fromarray(pixels))) - expected).max() <= 0.51


def test_an_original_file_gives_the_folders_bundle(opened, tmp_path):
    ours, theirs = opened("vq-f8")
    made = export(saved(theirs, tmp_path / "model.safetensors"), tmp_path / "bundle", ExportOptions())
    expected = ours.bundle.manifest
    assert {one: file.sha256 for one, file in made.files.items()} == {
        one: file.sha256 for one, file in expected.files.items()
    }
    assert (made.latents, made.defaults, made.family, made.tasks) == (
        expected.latents,
        expected.defaults,
        "autoencoder",
        ("autoencoding",),
    )


def test_a_bundle_has_the_autoencoder_and_nothing_else(opened):
    manifest = opened("vq-f8")[0].bundle.manifest
    assert [*manifest.components] == ["quantizer", "vae_decoder", "vae_encoder"]
    assert [*opened("kl-f8")[0].bundle.manifest.components] == ["vae_decoder", "vae_encoder"]
    assert (manifest.schedule, manifest.tokenizer, manifest.lora_weights) == (None, None, "")
    assert (manifest.defaults.width, manifest.defaults.height) == (256, 256)
    assert open_bundle(opened("vq-f8")[0].bundle.folder).manifest == manifest


def test_codebooks_stay_in_float32_in_half_precision(tmp_path):
    built("vq-f4-noattn").save_pretrained(tmp_path / "folder")
    made = export(tmp_path / "folder", tmp_path / "bundle", ExportOptions(precision="fp16"))
    assert {name: one.precision for name, one in made.components.items()} == {
        "quantizer": "fp32",
        "vae_decoder": "fp16",
        "vae_encoder": "fp16",
    }


def test_graphs_for_this_processor(opened, tmp_path):
    ours, theirs = opened("vq-f8")
    folder = shutil.copytree(ours.bundle.folder, tmp_path / "bundle")
    assert [one.component for one in build_cpu(folder)] == [*ours.bundle.manifest.components]
    with latentrt.load(folder, engine="onnxruntime") as optimised:
        image = pictures(1, 48, 32)
        check(optimised.encode(image.numpy())[0], means(theirs, image))
        check(optimised.decode(means(theirs, image).numpy()), decoded(theirs, means(theirs, image)))


@pytest.mark.parametrize(("tile", "message"), [(62, "multiple of 4"), (12, "expected at least 16"), (0, "at least 1")])
def test_tiles_that_cannot_be_are_refused(opened, tile, message):
    with pytest.raises(RequestError, match=f"tile: got {tile}, .*{message}"):
        latentrt.Codec(opened("vq-f4-noattn")[0], tile=tile)


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (
            np.zeros((1, 4, 2, 2), np.float32),
            r"got the shape \(1, 4, 2, 2\), expected floats of the shape \(1, 3",
        ),
        (np.zeros((2, 3, 2, 2), np.float32), r"got the shape \(2, 3, 2, 2\)"),
        (np.zeros((1, 3, 0, 2), np.float32), r"got the shape \(1, 3, 0, 2\)"),
        (np.zeros((1, 3, 2, 2), np.int64), "expected floats"),
        (np.full((1, 3, 2, 2), np.nan), "not finite"),
        ("nowhere.npy", "is not a readable .npy file"),
        (None, "got None, expected floats"),
    ],
)
def test_latents_that_are_none_are_refused(opened, latents, message):
    with pytest.raises(RequestError, match=f"^latents: .*{message}"):
        latentrt.Codec(opened("vq-f4-noattn")[0]).decode(latents)


def test_such_a_bundle_draws_no_pictures(opened):
    ours, _ = opened("kl-f8")
    with pytest.raises(BundleError, match="got an autoencoder alone, expected a bundle with a denoiser .* encode"):
        ours.generate("a red apple")


def status(monkeypatch, *arguments):
    """The exit status of a command."""
    monkeypatch.setattr("sys.argv", ["latentrt", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code or 0


@pytest.mark.parametrize(
    "command",
    [("generate",), ("bench",), ("estimate",), ("calibrate", "made"), ("compare", "emoji")],
    ids=lambda command: command[0],
)
def test_commands_that_draw_refuse_it_in_one_line(opened, monkeypatch, capsys, tmp_path, command):
    folder = opened("kl-f8")[0].bundle.folder
    monkeypatch.chdir(tmp_path)
    name, *others = command
    arguments = ("--bundle", folder) if name == "generate" else (folder, *others)
    assert status(monkeypatch, name, *arguments) == 3
    assert capsys.readouterr().err.count("got an autoencoder alone, expected a bundle with a denoiser") == 1
    assert not [*tmp_path.iterdir()]


def test_commands_encode_and_decode(opened, monkeypatch, capsys, tmp_path):
    folder = opened("vq-f8")[0].bundle.folder
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(2).integers(0, 256, (32, 48, 3), np.uint8)
    Image.fromarray(pixels).save("in.png")
    options = "--bundle", folder, "--engine", "cpu"
    assert status(monkeypatch, "encode", "in.png", *options, "--out", "x.npy", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"file": "x.npy", "shape": [1, 4, 4, 6]}
    assert status(monkeypatch, "decode", "x.npy", *options, "--out", "out.png") == 0
    codec = latentrt.Codec(opened("vq-f8")[0])
    np.testing.assert_array_equal(np.load("x.npy"), codec.encode("in.png"))
    with Image.open("out.png") as written:
        assert written.tobytes() == codec.round_trip("in.png").tobytes()
    assert status(monkeypatch, "inspect", folder) == status(monkeypatch, "verify", folder) == 0
    assert "autoencoder  autoencoding" in (out := capsys.readouterr().out) and "4 channels, 8x8 pixels" in out
    assert status(monkeypatch, "encode", "in.png", *options, "--out", "x.png") == 2
    assert "ends in .npy" in capsys.readouterr().err
