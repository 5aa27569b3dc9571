"""Super-resolution of any picture: size, padding, tiles, transparency, progress, metadata, refusals."""

import numpy as np
import pytest
from PIL import Image

import latentrt
from latentrt.bundle.catalog import MODELS
from latentrt.engines import ENGINES
from latentrt.engines.keeping import keep
from latentrt.engines.onnx.binding import OrtTensor
from latentrt.engines.onnx.engine import BoundEngine
from latentrt.errors import OutputError, RequestError
from latentrt.images.colours import with_colours_of
from latentrt.images.pillow import to_pixels
from latentrt.pipeline.memory import activation_bytes, demand_of
from latentrt.pipeline.metadata import read_png
from latentrt.pipeline.upscale import Counted, Counter
from latentrt.request.request import Request
from latentrt.request.settings import resolve
from latentrt.sampling import tiling
from tests.runtime.fake import named
from tests.runtime.upscaling import pipeline_of, upscaling

STEPS = {"steps": 2, "seed": 0}
GRAPH = MODELS / "emoji/vae_decoder.onnx"


@pytest.fixture
def pipeline(bundle, calls):
    return pipeline_of(bundle, calls)


def noise(width, height, mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 4), np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (16, 12), (17, 40)])
def test_any_size_is_enlarged(pipeline, size):
    assert latentrt.upscale(pipeline, noise(*size), steps=1, seed=0).image.size == (8 * size[0], 8 * size[1])


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "CMYK"])
def test_any_mode_is_enlarged(pipeline, mode):
    image = latentrt.upscale(pipeline, noise(5, 6, mode), steps=1, seed=0).image
    assert (image.size, image.mode) == ((40, 48), "RGB")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_any_mode_with_transparency_is_enlarged(pipeline, mode):
    image = latentrt.upscale(pipeline, noise(5, 6, mode), steps=1, seed=0).image
    assert (image.size, image.mode) == ((40, 48), "RGBA")


def test_a_picture_that_fits_is_the_one_that_generate_makes(pipeline):
    picture = noise(12, 16)
    expected = pipeline.generate(init=picture, **STEPS).images[0]
    assert expected.size == (96, 128)
    assert latentrt.upscale(pipeline, picture, **STEPS).image.tobytes() == expected.tobytes()


def test_it_is_padded_by_reflection_and_cropped(pipeline, calls):
    pixels = np.asarray(noise(5, 4))
    padded = np.concatenate([pixels, pixels[:, [3, 2, 1]]], axis=1)
    got = latentrt.upscale(pipeline, Image.fromarray(pixels), **STEPS).image
    shown = named(calls, "unet")[0]["sample"][0, 4:]
    np.testing.assert_array_equal(shown, to_pixels(Image.fromarray(padded))[0])
    whole = pipeline.generate(init=Image.fromarray(padded), **STEPS).images[0]
    assert got.tobytes() == whole.crop((0, 0, 40, 32)).tobytes()


def test_every_tile_is_shown_its_part_of_the_picture(pipeline, calls):
    picture = noise(20, 16)
    latentrt.upscale(pipeline, picture, steps=1, seed=0)
    first, second = (feeds["sample"][0] for feeds in named(calls, "unet"))
    pixels = to_pixels(picture)[0]
    np.testing.assert_array_equal(first[4:], pixels[..., :16])
    np.testing.assert_array_equal(second[4:], pixels[..., 4:])
    np.testing.assert_array_equal(first[:4, :, 4:], second[:4, :, :12])  # the noise is that of the whole picture


@pytest.mark.parametrize("sampler", ["ddim", "euler_a", "heun"])
def test_the_order_of_the_tiles_does_not_matter(pipeline, monkeypatch, sampler):
    def upscaled():
        return np.asarray(latentrt.upscale(pipeline, noise(30, 21), sampler=sampler, **STEPS).image).astype(int)

    forwards, grid = upscaled(), tiling.tile_grid
    monkeypatch.setattr("latentrt.request.tiling.tile_grid", lambda *sizes: grid(*sizes)[::-1])
    assert np.abs(upscaled() - forwards).max() <= 1


def test_several_passes(pipeline):
    picture = noise(3, 2)
    once = latentrt.upscale(pipeline, picture, **STEPS).image
    twice = latentrt.upscale(pipeline, picture, times=2, **STEPS)
    assert twice.image.size == (192, 128)
    assert twice.image.tobytes() == latentrt.upscale(pipeline, once, **STEPS).image.tobytes()


def test_colours_are_kept(pipeline):
    rows = np.linspace(90, 160, 24).astype(np.uint8)[:, None, None]
    picture = Image.fromarray(np.broadcast_to(rows + np.array([0, 20, 40], np.uint8), (24, 32, 3)).copy())
    made, kept = (latentrt.upscale(pipeline, picture, keep_colours=one, **STEPS) for one in (False, True))
    off = [np.abs(floats(one.image.reduce(8)) - floats(picture)).mean() for one in (made, kept)]
    assert off[1] < 2 < 10 < off[0]
    assert (made.record()["keep_colours"], kept.record()["keep_colours"]) == (False, True)


def test_colours_that_are_right_stay():
    picture = noise(8, 8).resize((64, 48), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(floats(with_colours_of(picture, picture.reduce(8))), floats(picture), atol=1)  # rounded


def floats(image):
    return np.asarray(image, np.float64)


def test_transparency_is_enlarged_by_bicubic_interpolation(pipeline):
    picture = noise(5, 7, "RGBA")
    got = latentrt.upscale(pipeline, picture, **STEPS).image
    alpha = picture.getchannel("A").resize((40, 56), Image.Resampling.BICUBIC)
    assert got.getchannel("A").tobytes() == alpha.tobytes()
    opaque = latentrt.upscale(pipeline, picture.convert("RGB"), **STEPS).image
    assert got.convert("RGB").tobytes() == opaque.tobytes()
    picture.putalpha(255)
    assert latentrt.upscale(pipeline, picture, **STEPS).image.mode == "RGB"


def test_a_file_is_turned_as_its_exif_says(pipeline, tmp_path):
    picture, exif = noise(6, 9), Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    got = latentrt.upscale(pipeline, tmp_path / "turned.png", **STEPS).image
    upright = picture.transpose(Image.Transpose.ROTATE_270)
    assert got.size == (72, 48)
    assert got.tobytes() == latentrt.upscale(pipeline, upright, **STEPS).image.tobytes()


@pytest.mark.parametrize("sampler", ["ddim", "heun"])
@pytest.mark.parametrize(("size", "tiles"), [((5, 5), 1), ((20, 16), 2), ((30, 20), 6)])
def test_progress_counts_tiles_and_steps(pipeline, calls, size, tiles, sampler):
    seen = []
    latentrt.upscale(pipeline, noise(*size), steps=3, sampler=sampler, progress=lambda *now: seen.append(now))
    total = len(named(calls, "unet")) + 1
    assert total % tiles == 1 % tiles and total > 3 * tiles
    assert seen == [(done, total) for done in range(1, total + 1)]


def test_progress_counts_calls_that_keep_outputs(pipeline):
    """And leaves them where the engine leaves them."""
    seen = []
    engine = BoundEngine("vae_decoder", pipeline.bundle.manifest.components["vae_decoder"], GRAPH, "onnxruntime")
    counted = Counted(engine, Counter(lambda *now: seen.append(now), 2).advance)
    feeds = {"latents": np.zeros((1, 4, 2, 2), np.float32)}
    assert isinstance(keep(counted, feeds, ["image"])["image"], OrtTensor)
    assert np.array_equal(keep(counted, feeds, [])["image"], counted(feeds)["image"])
    assert seen == [(1, 2), (2, 2), (2, 2)]


def test_progress_of_several_passes(pipeline):
    seen = []
    latentrt.upscale(pipeline, noise(4, 3), steps=1, times=2, progress=lambda *now: seen.append(now))
    assert seen == [(done, 2 + 6 + 1) for done in range(1, 10)]


def test_metadata_is_of_the_whole_picture(pipeline, tmp_path):
    picture = noise(5, 7)
    done = latentrt.upscale(pipeline, picture, tile=8, times=1, **STEPS)
    done.save(tmp_path / "large.png")
    record = read_png(tmp_path / "large.png")
    assert (record["width"], record["height"], record["tile"], record["steps"]) == (40, 56, 8, 2)
    assert record["init"] == {"size": [5, 7], "sha256": record["init"]["sha256"]}
    with Image.open(tmp_path / "large.png") as read:
        assert "Size: 40x56" in read.text["parameters"]
        assert read.tobytes() == done.image.tobytes()
    done.save(tmp_path / "bare.png", metadata=False, mark=False)
    with Image.open(tmp_path / "bare.png") as read:
        assert not read.text


def test_a_jpeg_cannot_be_transparent(pipeline, tmp_path):
    done = latentrt.upscale(pipeline, noise(4, 4, "RGBA"), steps=1)
    with pytest.raises(RequestError, match=r"JPEG for a picture with transparency, expected \.png or \.webp"):
        done.save(tmp_path / "large.jpg")
    with pytest.raises(OutputError):
        done.save(tmp_path / "missing" / "large.png")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 10}, "tile: got 10, expected a multiple of 4; the nearest are 8 or 12"),
        ({"tile": 0}, "tile: got 0, expected a whole number of at least 1"),
        ({"times": 0}, "times: got 0, expected a whole number from 1 to 4"),
        ({"steps": 0}, "steps: got 0"),
        ({"width": 64}, "width: got 64, expected options such as steps"),
        ({"batch": 2}, "batch: got 2, expected options such as steps"),
        ({"image": "missing.png"}, r"image: missing.png is not a readable image \(No such file"),
        ({"image": 3}, "image: got 3, expected an image or the path"),
    ],
)
def test_what_is_refused(pipeline, calls, options, message):
    with pytest.raises(RequestError, match=message):
        latentrt.upscale(pipeline, **{"image": noise(4, 4), **options})
    assert not calls


def test_another_model_is_refused(fake):
    with pytest.raises(RequestError, match=r"emoji, whose tasks are text-to-image.*expected super-resolution"):
        latentrt.upscale(fake, noise(4, 4))


@pytest.mark.parametrize(
    ("size", "near"), [((5, 8), "4x8 or 8x8"), ((5, 7), "4x4 or 8x8"), ((8, 3), "8x4"), ((2, 9), "4x12")]
)
def test_generate_names_the_nearest_sizes(bundle, size, near):
    manifest = upscaling(bundle).manifest
    got = "x".join(map(str, size))
    with pytest.raises(RequestError, match=rf"init: got an image of {got} .*: {near}; `latentrt upscale`"):
        resolve(Request(init=noise(*size)), manifest)


def test_generate_follows_the_init_unless_a_size_is_given(bundle):
    manifest = upscaling(bundle).manifest
    assert resolve(Request(init=noise(8, 4)), manifest).record().items() >= {"width": 64, "height": 32}.items()
    assert resolve(Request(init=noise(5, 7), width=32, height=64), manifest).width == 32
    with pytest.raises(RequestError, match="nearest"):
        resolve(Request(init=noise(8, 7), width=32), manifest)


def test_the_decoder_works_in_tiles_above_its_size(pipeline, calls, monkeypatch):
    monkeypatch.setattr(tiling, "DECODED", 16)
    monkeypatch.setattr(tiling, "DECODER_OVERLAP", 4)
    seen = []
    options = {**STEPS, "progress": lambda *now: seen.append(now)}
    in_tiles = np.asarray(latentrt.upscale(pipeline, noise(30, 16), **options).image).astype(int)
    decoded = [feeds["latents"].shape[-2:] for feeds in named(calls, "vae_decoder")]
    assert decoded == [(16, 16)] * 3
    assert seen[-1] == (len(named(calls, "unet")) + 3,) * 2
    monkeypatch.setattr(tiling, "DECODED", 32)
    whole = np.asarray(latentrt.upscale(pipeline, noise(30, 16), **STEPS).image).astype(int)
    assert np.abs(whole - in_tiles).max() <= 1


def test_memory_is_that_of_a_tile(bundle):
    manifest = upscaling(bundle).manifest

    def demand(**options):
        return demand_of(resolve(Request(**options), manifest), 1, manifest)

    small, large = (demand(init=noise(side, side), window=128) for side in (128, 512))
    for name in ("unet", "vae_decoder"):
        model = ENGINES["onnxruntime"].memory
        assert activation_bytes(manifest, name, small, model) == activation_bytes(manifest, name, large, model) > 0
    assert not large.encodes and demand(init=noise(8, 4), strength=0.5).encodes
