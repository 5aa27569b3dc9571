import json
import math
import random
import struct
import warnings
import zlib
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from latentrt.bundle.folder import Bundle
from latentrt.bundle.manifest import Classes
from latentrt.errors import LatentError, OutputError, RequestError
from latentrt.pipeline.metadata import Provenance, picture_text, read_png
from latentrt.pipeline.pipeline import Pipeline
from latentrt.pipeline.result import Result
from latentrt.recipes import read_recipe
from latentrt.request.request import Request
from latentrt.request.settings import resolve
from tests.runtime.flat import flat

SETTINGS = flat(
    prompt="a red apple",
    negative="blue",
    steps=5,
    guidance=3.5,
    seeds=(7, 8),
    width=16,
    height=8,
    sampler="ddim",
    sigmas="karras",
    spacing="trailing",
    options={"eta": 0.0},
)


def result(prompt: str = "a red apple", *, bundle: str = "emoji", **changed: Any) -> Result:
    settings = flat(SETTINGS, prompt=prompt, **changed)
    images = tuple(Image.new("RGB", (16, 8), colour) for colour in ("red", "blue"))
    return Result(images, settings, {}, "cpu", bundle, "0123456789abcdef" * 4)


@pytest.fixture
def png(tmp_path: Path) -> Path:
    return tmp_path / "apple.png"


def save_text(path: Path, **text: str) -> None:
    """A PNG as another tool would write it."""
    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)


def parameters(path: Path) -> str:
    with Image.open(path) as image:
        return str(image.text["parameters"])  # type: ignore[attr-defined]


@pytest.mark.parametrize(("image", "seed"), [(0, 7), (1, 8), (-1, 8)])
def test_a_png_says_how_it_was_made(png: Path, image: int, seed: int) -> None:
    result().save(png, image)
    assert read_png(png) == {
        "version": version("latentrt"),
        "bundle": {"name": "emoji", "sha256": "0123456789abcdef" * 4},
        "engine": "cpu",
        "prompt": "a red apple",
        "negative": "blue",
        "steps": 5,
        "guidance": 3.5,
        "width": 16,
        "height": 8,
        "sampler": "ddim",
        "sigmas": "karras",
        "spacing": "trailing",
        "syntax": "strict",
        "lora_tags": "a1111",
        "guidance_rescale": 0.0,
        "guidance_interval": None,
        "image_guidance": None,
        "clip_skip": 1,
        "noise": "cpu",
        "variation_seed": None,
        "variation_strength": 0.0,
        "blend": None,
        "blend_strength": 0.0,
        "window": None,
        "stride": None,
        "seamless": None,
        "fast_decode": False,
        "original_size": None,
        "crop": None,
        "target_size": None,
        "aesthetic_score": None,
        "negative_aesthetic_score": None,
        "eta": 0.0,
        "seed": seed,
    }
    with Image.open(png) as saved:
        assert (saved.format, saved.size, saved.getpixel((0, 0))) == (
            "PNG",
            (16, 8),
            result().images[image].getpixel((0, 0)),
        )


def test_other_tools_can_read_it(png: Path) -> None:
    result().save(str(png))
    assert parameters(png) == (
        "a red apple\nNegative prompt: blue\nSteps: 5, Sampler: DDIM, Schedule type: Karras, CFG scale: 3.5, Seed: 7, "
        f"Size: 16x8, Model hash: 0123456789, Model: emoji, RNG: CPU, Version: latentrt {version('latentrt')}"
    )


def test_other_tools_find_no_negative_prompt_where_there_is_none(png: Path) -> None:
    result(negative="").save(png)
    assert parameters(png).splitlines()[1].startswith("Steps: 5, ")


@pytest.mark.parametrize(
    ("bundle", "model"),
    [("emoji", "emoji"), ("a b", "a b"), ("a, b", '"a, b"'), ('"a"', '"\\"a\\""'), ("a: 1\nb", '"a: 1\\nb"')],
)
def test_a_name_with_separators_is_quoted(png: Path, bundle: str, model: str) -> None:
    result(bundle=bundle).save(png)
    assert f", Model: {model}, RNG: " in parameters(png)
    assert read_png(png)["bundle"]["name"] == bundle


PROMPTS = {
    "empty": "",
    "Latin-1": "caf\u00e9 \u00fcber",
    "beyond": "\u732b \U0001f34e \u0645\u0631\u062d\u0628\u0627",
    "quotes": '"an" \'apple\' \\ {"a": 1}',
    "lines": "a\nb\r\nc\n\n",
    "settings": "apple\nNegative prompt: x\nSteps: 99, Sampler: y, Seed: 1",
    "control": "a\0b\x1b[31mc\x7f",
    "blanks": "  a  ",
    "100,000 letters": "x" * 100_000,
    "100,000 signs": "\u732b" * 100_000,
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_any_prompt_comes_back(png: Path, prompt: str) -> None:
    result(prompt, negative=prompt).save(png)
    record = read_png(png)
    assert (record["prompt"], record["negative"]) == (prompt, prompt)
    assert parameters(png).startswith(f"{prompt}\n")


# What AUTOMATIC1111 1.10 itself writes for each setting, or a list in the quotes that it has for values with commas.
WRITTEN: list[tuple[dict[str, Any], str]] = [
    ({"noise": "cuda"}, "RNG: NV"),
    ({"clip_skip": 2}, "Clip skip: 2, RNG: CPU"),
    (
        {"variation_seeds": (9, 10), "seeds": (7, 7), "variation_strength": 0.25},
        "Model: emoji, Variation seed: 9, Variation seed strength: 0.25, RNG: CPU",
    ),
    ({"options": {"eta": 0.5}}, "RNG: CPU, Eta DDIM: 0.5, Version: "),
    ({"sampler": "euler_a", "options": {"eta": 0.5}}, "RNG: CPU, Eta: 0.5, Version: "),
    ({"guidance_rescale": 0.7}, "CFG Rescale: 0.7, Version: "),
    ({"sigmas": (14.6, 3.0, 0.75)}, 'Schedule type: "14.6, 3.0, 0.75", CFG scale: 3.5'),
    ({"guidance": (7.0, 7.0, 1.5)}, 'CFG scale: "7.0, 7.0, 1.5", Seed: 7'),
]


@pytest.mark.parametrize(("changed", "text"), WRITTEN, ids=[text for _, text in WRITTEN])
def test_other_tools_can_read_what_is_not_at_its_default(png: Path, changed: dict[str, Any], text: str) -> None:
    result(**changed).save(png)
    assert text in parameters(png)


@pytest.mark.parametrize(("sampler", "eta"), [("ddim", 0.0), ("euler_a", 1.0), ("dpmpp_2m_sde", 1.0), ("euler", None)])
def test_other_tools_find_no_default(png: Path, sampler: str, eta: float | None) -> None:
    result(sampler=sampler, options={} if eta is None else {"eta": eta}).save(png)
    settings = parameters(png).splitlines()[-1]
    for name in ("Eta", "Clip skip", "Variation", "CFG Rescale", "None"):
        assert name not in settings


def fields_of(record: dict[str, Any]) -> dict[str, Any]:
    """The part of a record that a request takes."""
    return {key: value for key, value in record.items() if key not in ("version", "bundle", "engine")}


ASKED: list[dict[str, Any]] = [
    {"sampler": "euler_a", "eta": 0.25, "sigmas": (14.614641, 2.0, 1 / 3), "guidance": (7, 1.1, 0.1 + 0.2)},
    {"guidance_interval": (0.3, math.inf), "guidance_rescale": 0.7, "clip_skip": 2, "syntax": "lenient"},
    {"guidance_interval": (0.3, 3.0), "noise": "cuda", "steps": 7, "spacing": "leading", "width": 64, "height": 96},
    {"seed": 2**64 - 1, "variation_seed": 2**64 - 4, "variation_strength": 0.1, "batch": 3},
    {"sampler": "dpmpp_2m", "order": 3, "solver": "heun", "sigmas": "ays", "negative": "blue"},
    {"sampler": "tcd", "gamma": 0.5, "steps": 4, "guidance": 0.0},
    {"sampler": "unipc", "order": 1, "solver": "bh1", "guidance_interval": (0, 0)},
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_every_setting_comes_back_the_same(png: Path, bundle: Bundle, asked: dict[str, Any]) -> None:
    settings = resolve(Request("a (red:1.2) apple", **{"seed": 7, "batch": 2, **asked}), bundle.manifest)
    images = tuple(Image.new("RGB", (8, 8)) for _ in settings.seeds)
    made = Result(images, settings, {}, "cpu", "emoji", bundle.sha256)
    for image in range(len(images)):
        made.save(png, image)
        again = resolve(Request(**fields_of(read_png(png))), bundle.manifest)
        assert again == settings.of_image(image)


@pytest.mark.parametrize("interval", [(0.3, math.inf), (0.0, 3.0)])
def test_the_record_has_nothing_that_json_lacks(png: Path, interval: tuple[float, float]) -> None:
    def refuse(literal: str) -> None:
        raise AssertionError(f"{literal} is no JSON")

    result(guidance_interval=interval).save(png)
    with Image.open(png) as image:
        record = json.loads(image.text["latentrt"], parse_constant=refuse)  # type: ignore[attr-defined]
    low, high = interval
    assert record["guidance_interval"] == [low, None if math.isinf(high) else high]
    assert record == read_png(png)


VARIED: dict[str, Any] = {
    "steps": 2,
    "sampler": "dpmpp_2m_sde",
    "sigmas": "karras",
    "noise": "cuda",
    "variation_seed": 3,
    "variation_strength": 0.5,
    "guidance_interval": (0.5, math.inf),
}


@pytest.mark.parametrize("options", [{"steps": 1}, VARIED], ids=["plain", "varied"])
def test_a_record_makes_the_image_again(png: Path, emoji: Pipeline, options: dict[str, Any]) -> None:
    made = emoji.generate("a (red:1.2) apple", seed=7, batch=2, width=32, height=24, **options)
    made.save(png, 1)
    record = read_png(png)
    again = emoji.generate(**fields_of(record))
    assert record["bundle"]["sha256"] == emoji.bundle.sha256
    difference = np.asarray(again.images[0], int) - np.asarray(made.images[1], int)
    assert np.abs(difference).max() <= 1  # alone, not in a batch: the last bits of a float32
    assert again.images[0].tobytes() != made.images[0].tobytes()


def test_metadata_can_be_left_out(png: Path) -> None:
    result().save(png, metadata=False, mark=False)
    with Image.open(png) as image:
        assert image.text == {}  # type: ignore[attr-defined]
    with pytest.raises(RequestError, match="holds no generation data"):
        read_png(png)


def test_a_png_of_another_tool(png: Path) -> None:
    save_text(png, parameters="a red apple\nSteps: 20, Sampler: Euler a")
    assert read_png(png) == {"parameters": "a red apple\nSteps: 20, Sampler: Euler a"}


def test_a_png_with_other_text(png: Path) -> None:
    save_text(png, Comment="a red apple")
    with pytest.raises(RequestError, match="apple.png: holds no generation data"):
        read_png(png)


@pytest.mark.parametrize("text", ["null", "[]", '"a"', "5"])
def test_a_record_that_is_no_object_is_none(png: Path, text: str) -> None:
    save_text(png, latentrt=text)
    with pytest.raises(RequestError, match="holds no generation data"):
        read_png(png)
    save_text(png, latentrt=text, parameters="a red apple")
    assert read_png(png) == {"parameters": "a red apple"}


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", "[" * 100_000], ids=["empty", "half", "Python", "deep"])
def test_a_damaged_record(png: Path, text: str) -> None:
    save_text(png, latentrt=text)
    with pytest.raises(RequestError, match="its 'latentrt' text is not valid JSON"):
        read_png(png)


@pytest.mark.parametrize("content", [b"", b"an apple", b"\x89PNG\r\n\x1a\n", bytes(100)])
def test_no_png(png: Path, content: bytes) -> None:
    png.write_bytes(content)
    with pytest.raises(RequestError, match="apple.png: not a readable picture"):
        read_png(png)


def test_another_format_under_that_name_is_read_as_what_it_is(png: Path) -> None:
    Image.new("RGB", (8, 8)).save(png, format="JPEG")
    with pytest.raises(RequestError, match="holds no generation data"):
        read_png(png)


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
@pytest.mark.parametrize("ending", [".jpg", ".JPEG", ".webp"])
def test_jpeg_and_webp_say_it_too(tmp_path: Path, ending: str, prompt: str) -> None:
    path, whole = tmp_path / f"apple{ending}", tmp_path / "apple.png"
    result(prompt).save(path, 1)
    result(prompt).save(whole, 1)
    if ending == ".webp" or len(prompt) < 1000:
        assert read_png(path) == read_png(whole)
    with Image.open(path) as image:
        assert image.format == ("WEBP" if ending == ".webp" else "JPEG")
        if ending == ".webp":
            assert image.convert("RGB").tobytes() == result().images[1].tobytes()
    result(prompt).save(path, metadata=False)
    with Image.open(path) as image:
        assert not dict(image.getexif())


def test_the_comment_is_what_automatic1111_reads(tmp_path: Path) -> None:
    """It decodes what follows "UNICODE" as UTF-16 with the larger byte first, of the type that EXIF names undefined."""
    result("an \u82f9\u679c \U0001f34e").save(tmp_path / "x.jpg")
    result("an \u82f9\u679c \U0001f34e").save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.jpg") as image:
        raw, found = image.info["exif"], image.getexif().get_ifd(0x8769)[0x9286]
    assert found.startswith(b"UNICODE\0") and found[8:].decode("utf-16-be") == parameters(tmp_path / "x.png")
    assert struct.pack(">HHL", 0x9286, 7, len(found)) in raw


def test_an_ending_of_another_format_is_refused(tmp_path: Path) -> None:
    for name in ("x.bmp", "x.tiff", "x.gif", "x.5"):
        with pytest.raises(RequestError, match="expected .png or .jpg or .jpeg or .webp"):
            result().save(tmp_path / name)
    result().save(tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and read_png(tmp_path / "x")["seed"] == 7


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.png", tmp_path):
        with pytest.raises(RequestError, match=f"{path}: not a readable picture"):
            read_png(path)


def test_a_png_that_says_it_is_enormous(png: Path) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    end = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))
    png.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + end)
    with pytest.raises(RequestError, match="not a readable picture"):
        read_png(png)


def test_no_damaged_png_escapes_the_error_tree(png: Path) -> None:
    result("\u732b").save(png)
    content, draw = png.read_bytes(), random.Random(0)
    for number in range(500):
        start = draw.randrange(len(content))
        damaged = content[:start] + draw.choice([b"", draw.randbytes(2)]) + content[start + draw.randrange(1, 5) :]
        png.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            try:
                read_png(png)
            except LatentError:
                pass
            except Exception as error:
                raise AssertionError(f"edit {number} escaped: {damaged!r}") from error


def test_a_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "apple.png"
    with pytest.raises(
        OutputError, match=f"^{path}: cannot be written .No such file or directory.; name a file in a folder"
    ):
        result().save(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["", "apple.png"])
def test_a_folder_in_the_place_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "apple.png").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        result().save(path)
    assert list(tmp_path.iterdir()) == [tmp_path / "apple.png"]


@pytest.mark.parametrize(
    ("error", "raised"), [(OSError(28, "No space left on device"), OutputError), (MemoryError(), MemoryError)]
)
def test_a_failed_save_leaves_the_old_file(
    png: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, raised: type[Exception]
) -> None:
    def half(image: Image.Image, path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        raise error

    png.write_bytes(b"old")
    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(raised):
        result().save(png)
    assert list(png.parent.iterdir()) == [png]
    assert png.read_bytes() == b"old"


def test_the_record_is_json_that_anyone_can_read(png: Path) -> None:
    result("\u732b").save(png)
    with Image.open(png) as image:
        text = image.text["latentrt"]  # type: ignore[attr-defined]
    assert "\u732b" in text
    assert json.loads(text) == read_png(png)


def test_a_class_is_read_back(bundle: Bundle, tmp_path: Path) -> None:
    manifest = replace(bundle.manifest, text=None, tokenizer=None, classes=Classes(10, 10, ("tench", "goldfish")))
    settings = resolve(Request(class_label="goldfish", seed=3), manifest)
    texts = picture_text(settings, 0, Provenance("cpu", "cin", "0" * 64))
    assert json.loads(texts["latentrt"])["class_label"] == 1
    save_text(tmp_path / "x.png", parameters=texts["parameters"])
    found = read_recipe(tmp_path / "x.png").settings
    assert (found["class_label"], found["seed"], found["prompt"]) == (1, 3, "")
