"""Super-resolution against diffusers' LDMSuperResolutionPipeline, tiles against a short loop around its modules."""

import json

import numpy as np
import pytest
import torch
from diffusers import LDMSuperResolutionPipeline, UNet2DModel
from PIL import Image

import latentrt
from latentrt.cli import main
from latentrt.images.pillow import reflected, to_pixels
from latentrt.sampling.tiling import tile_grid
from latentrt_export.export import ExportOptions, export
from tests.export import ldm, tiny
from tests.export.samplers import MARKS
from tests.sweep import sweep

pytestmark = [*MARKS, sweep]

LEAST_DB = 100.0
MULTIPLE, TILE, STRIDE = 4, 16, 12


@pytest.fixture(scope="module")
def theirs():
    """diffusers' pipeline of a small model. The schedule is that of the published folder, which ends at alpha 1."""
    unet = tiny.seeded(lambda: UNet2DModel(**{**ldm.UNET, "in_channels": 6})).eval()
    scheduler = ldm.scheduler(0.0155, set_alpha_to_one=True)
    pipeline = LDMSuperResolutionPipeline(vqvae=ldm.first_stage(), unet=unet, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def bundle(theirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("super-resolution")
    theirs.save_pretrained(folder / "model")
    export(folder / "model", folder / "bundle", ExportOptions())
    return folder / "bundle"


@pytest.fixture(scope="module")
def ours(bundle):
    with latentrt.load(bundle, engine="onnxruntime") as pipeline:
        yield pipeline


def picture(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def floats(image):
    return np.asarray(image, np.float64)[np.newaxis] / 255


@pytest.mark.parametrize(("steps", "size"), [(1, (32, 32)), (2, (64, 32)), (4, (32, 32))])
def test_generate_is_diffusers(ours, theirs, steps, size):
    image = picture(*size)  # the reference cuts sides to multiples of 32
    generator = torch.Generator().manual_seed(0)
    expected = theirs(image, num_inference_steps=steps, eta=0.0, generator=generator, output_type="np").images
    got = ldm.pixels(ours, init=image, seed=0, steps=steps, eta=0.0)
    assert got.shape[1:3] == (4 * size[1], 4 * size[0])
    assert ldm.psnr(got, expected) >= LEAST_DB


def test_a_batch_has_a_seed_each(ours):
    image = picture(20, 16)
    together = ldm.pixels(ours, init=image, seed=4, steps=2, batch=3)
    alone = np.concatenate([ldm.pixels(ours, init=image, seed=4 + one, steps=2) for one in range(3)])
    assert ldm.psnr(together, alone) >= LEAST_DB


@pytest.mark.parametrize(("size", "eta"), [((13, 6), 0.0), ((21, 30), 0.0), ((21, 30), 1.0)])
def test_upscale_is_the_mean_of_tiles_at_each_step(ours, theirs, size, eta):
    image = picture(*size)
    shown = torch.from_numpy(to_pixels(reflected(image, MULTIPLE)))
    rows, columns = shown.shape[-2:]
    tiles = tile_grid(rows, columns, TILE, STRIDE, None)

    def predict(x, timestep, _unguided):
        total, count = torch.zeros_like(x), torch.zeros(rows, columns)
        for down, across in tiles:
            part = torch.cat([x, shown], dim=1)[..., down, across]
            total[..., down, across] += theirs.unet(part, timestep).sample
            count[down, across] += 1
        return total / count

    scheduler = ldm.scheduler(0.0155, set_alpha_to_one=True)
    padded = ldm.sampled(predict, theirs.vqvae, scheduler, (3, rows, columns), steps=2, eta=eta)
    expected = padded[:, : 4 * size[1], : 4 * size[0]]
    seen = []
    options = {"steps": 2, "seed": 0, "eta": eta, "progress": lambda *now: seen.append(now)}
    got = latentrt.upscale(ours, image, **options)
    assert (got.tile, seen[-1]) == (TILE, (2 * len(tiles) + 1,) * 2)
    assert np.abs(floats(got.image) - expected).max() <= 0.51 / 255  # a picture is rounded to 8 bits


def test_the_command(bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    picture(13, 6).save("small.png")
    options = ("--bundle", str(bundle), "--engine", "cpu", "--steps", "2", "--json")
    monkeypatch.setattr("sys.argv", ["latentrt", "upscale", "small.png", "--out", "large.png", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    report = json.loads(capsys.readouterr().out)
    assert (report["file"], report["settings"]["init"]["size"]) == ("large.png", [13, 6])
    assert {"unet", "vae_decoder"} <= report["seconds"].keys()
    with Image.open("large.png") as written:
        assert written.size == (52, 24)


def test_generate_needs_no_prompt(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(12, 8).save("small.png")
    options = ("--bundle", str(bundle), "--engine", "cpu", "--init", "small.png", "--steps", "1", "--out", "large.png")
    monkeypatch.setattr("sys.argv", ["latentrt", "generate", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    with Image.open("large.png") as written:
        assert written.size == (48, 32)


def test_the_codec_is_the_first_stage(ours, theirs):
    image, codec = picture(24, 16), latentrt.Codec(ours)
    with torch.no_grad():
        latents = theirs.vqvae.encode(torch.from_numpy(to_pixels(image))).latents
        expected = theirs.vqvae.decode(latents).sample
    encoded = codec.encode(image)
    assert np.abs(encoded - latents.numpy()).max() <= 1e-5 * latents.abs().max().item()
    decoded = (expected / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert np.abs(floats(codec.decode(latents.numpy())) - decoded).max() <= 0.51 / 255
    assert codec.round_trip(image).size == image.size
