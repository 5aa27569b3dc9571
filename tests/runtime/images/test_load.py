"""Pictures as people have them: every mode, EXIF, several frames, damaged files, too many pixels, too few."""

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from latentrt.bundle.folder import Bundle
from latentrt.errors import RequestError
from latentrt.images.load import open_image
from latentrt.images.mask import Mask
from latentrt.request.control import Control
from latentrt.request.request import Request
from latentrt.request.settings import Settings, resolve

RAMP = Image.fromarray(np.arange(24 * 16, dtype=np.uint16).reshape(16, 24).astype(np.uint8))
COLOURS = Image.merge("RGB", (RAMP, ImageOps.flip(RAMP), ImageOps.mirror(RAMP)))


@pytest.fixture(autouse=True)
def warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def message(source: Any, mode: str = "RGB") -> str:
    with pytest.raises(RequestError) as caught:
        open_image("init", source, mode)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pixels(image: Image.Image) -> Any:
    return np.asarray(image).tolist()


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
)
def test_every_mode_of_8_bits_is_taken(mode: str) -> None:
    first = {"La": "LA", "RGBa": "RGBA", "PA": "LA" if "PA" not in Image.MODES else "P"}.get(mode, mode)
    image = (RAMP.convert("LA") if first == "LA" else COLOURS.convert(first)).convert(mode)
    opened = open_image("init", image)
    assert (opened.mode, opened.size) == ("RGB", (24, 16))
    if mode in ("RGB", "RGBA", "RGBX", "RGBa"):
        assert pixels(opened) == pixels(COLOURS)
    if mode == "L":
        assert pixels(opened.getchannel(0)) == pixels(COLOURS.convert("L"))


def test_lab_is_brought_to_rgb_as_littlecms_does() -> None:
    rgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(COLOURS, rgb, lab, outputMode="LAB")
    assert image is not None and image.mode == "LAB"
    difference = np.abs(np.asarray(open_image("init", image), int) - np.asarray(COLOURS, int))
    assert difference.mean() < 3


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I"])
def test_16_bits_are_scaled_to_8(mode: str) -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]])
    kinds = {"I;16B": ">u2", "I": "<i4"}
    image = Image.frombytes(mode, (8, 1), values.astype(kinds.get(mode, "<u2")).tobytes())
    for wanted in ("L", "RGB"):
        opened = open_image("control depth", image, wanted)
        assert opened.mode == wanted
        assert np.asarray(opened).reshape(8, -1)[:, 0].tolist() == [0, 0, 1, 1, 128, 254, 255, 255]


def test_a_depth_map_of_16_bits_in_a_file(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for name in ("depth.png", "depth.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert pixels(open_image("control depth", tmp_path / name, "L")) == np.rint(values / 257).astype(int).tolist()


def test_floats_are_taken_from_0_to_1() -> None:
    image = Image.fromarray(np.array([[0, 0.5, 1]], np.float32))
    assert pixels(open_image("init", image, "L")) == [[0, 128, 255]]
    for wrong in (1.5, -0.1, float("nan"), float("inf")):
        assert "mode F with values from" in message(Image.fromarray(np.array([[0, wrong]], np.float32)))
    assert "values from -1 to 5, expected 0 to 65535" in message(Image.fromarray(np.array([[-1, 5]], np.int32)))
    assert "expected 0 to 65535" in message(Image.fromarray(np.array([[0, 70000]], np.int32)))


def test_a_palette_with_transparency_for_each_colour(tmp_path: Path) -> None:
    COLOURS.quantize(8).save(tmp_path / "p.png", transparency=bytes(range(8)))
    assert pixels(open_image("init", tmp_path / "p.png")) == pixels(COLOURS.quantize(8).convert("RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("as_object", [False, True])
def test_a_photo_is_turned_as_its_camera_says(tmp_path: Path, orientation: int, as_object: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    COLOURS.save(tmp_path / "x.png", exif=exif)
    source = Image.open(tmp_path / "x.png") if as_object else tmp_path / "x.png"
    opened = open_image("init", source)
    with Image.open(tmp_path / "x.png") as image:
        assert pixels(opened) == pixels(ImageOps.exif_transpose(image).convert("RGB"))
    assert pixels(open_image("init", opened)) == pixels(opened)  # and is not turned once more


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0garbage that is none", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"]
)
def test_damaged_exif_is_left_alone(tmp_path: Path, exif: bytes) -> None:
    COLOURS.save(tmp_path / "x.jpg", exif=exif, quality=100)
    assert open_image("init", tmp_path / "x.jpg").size == (24, 16)
    COLOURS.save(tmp_path / "x.webp", exif=exif, lossless=True)
    assert pixels(open_image("init", tmp_path / "x.webp")) == pixels(COLOURS)


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tif"])
def test_the_first_of_several_frames_is_taken(tmp_path: Path, kind: str) -> None:
    red, blue = (Image.new("RGB", (16, 8), colour) for colour in ("red", "blue"))
    red.save(tmp_path / f"x.{kind}", save_all=True, append_images=[blue])
    opened = open_image("init", tmp_path / f"x.{kind}")
    assert np.abs(np.asarray(opened, int) - np.array([255, 0, 0])).max() <= 2


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "gif", "bmp", "tif"])
@pytest.mark.parametrize("as_object", [False, True])
def test_files_that_end_too_soon(tmp_path: Path, kind: str, as_object: bool) -> None:
    file = tmp_path / f"x.{kind}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(file)
    whole = file.read_bytes()
    for share in (0.02, 0.3, 0.6, 0.95):
        file.write_bytes(whole[: int(len(whole) * share)])
        check_refusal(file, as_object=as_object, may_open=kind in ("gif", "tif"))  # what is missing there is black


def check_refusal(file: Path, *, as_object: bool, may_open: bool) -> None:
    with open(file, "rb") as handle, contextlib.suppress(OSError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, where an object is made
        source = Image.open(handle) if as_object else file
        warnings.simplefilter("error")
        try:
            open_image("init", source)
        except RequestError as error:
            assert "is not a readable image (" in str(error) and "\n" not in str(error)
        else:
            assert may_open


def test_pillow_images_that_are_closed(tmp_path: Path) -> None:
    COLOURS.save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        pass
    assert message(image).startswith("init: the image given is not a readable image (")
    handle = io.BytesIO((tmp_path / "x.png").read_bytes())
    lazy = Image.open(handle)
    handle.close()
    assert "is not a readable image" in message(lazy)


def header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\0\1IDAT"


def test_large_files_are_taken_without_a_word_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 10)
    COLOURS.save(tmp_path / "x.png")  # more pixels than that, but less than twice as many
    assert open_image("init", tmp_path / "x.png").size == (24, 16)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 5)
    assert message(tmp_path / "x.png").endswith("(it has more than 240 pixels; make it smaller)")
    monkeypatch.undo()
    (tmp_path / "bomb.png").write_bytes(header(100_000, 100_000))
    assert "(it has more than 178,956,970 pixels; make it smaller)" in message(tmp_path / "bomb.png")


@pytest.mark.parametrize("source", [np.zeros((64, 64, 3), np.uint8), b"x.png", 5, None, ["x.png"]])
def test_what_is_no_image_is_told_briefly(source: Any) -> None:
    assert message(source).startswith("init: got ") and len(message(source)) < 200


def settled(bundle: Bundle, **options: Any) -> Settings:
    return resolve(Request("a", **options), bundle.manifest)


@pytest.mark.parametrize(("width", "height"), [(7, 300), (300, 7), (1, 1), (1, 300)])
@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_small_images_with_a_size_are_resized(bundle: Bundle, width: int, height: int, fit: str) -> None:
    image = COLOURS.resize((width, height))
    settings = settled(bundle, init=image, width=128, height=64, fit=fit)
    assert (settings.width, settings.height) == (128, 64) and settings.init_image is not None
    found = settings.init_image.fit_to(settings.init_image.image, 128, 64)
    assert found.size == (128, 64)
    if fit == "stretch":
        assert pixels(found) == pixels(image.resize((128, 64), Image.Resampling.LANCZOS))


def test_only_the_side_that_is_not_given_must_be_large_enough(bundle: Bundle) -> None:
    image = COLOURS.resize((7, 300))
    settings = settled(bundle, init=image, width=64)
    assert (settings.width, settings.height) == (64, 296)
    with pytest.raises(RequestError, match="init: got an image of 7x300 pixels, expected at least 8x8, or a size"):
        settled(bundle, init=image, height=64)


def test_masks_of_small_images(bundle: Bundle) -> None:
    image, mask = COLOURS.resize((1, 300)), Image.new("1", (1, 300), 1)
    settings = settled(bundle, init=image, mask=mask, mask_padding=4, width=64, height=64)
    assert settings.init_image is not None and isinstance(settings.init_image.mask, Mask)
    assert settings.init_image.fit_to(settings.init_image.image, 64, 64).size == (64, 64)


def test_controls_of_any_size_with_a_size(bundle: Bundle) -> None:
    with pytest.raises(RequestError, match="controls: got 'canny', but"):
        settled(bundle, controls=[Control("canny", COLOURS.resize((7, 3)))], width=64, height=64)
