import json
import random
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import latentrt
from latentrt.errors import LatentError, OutputError, RequestError
from latentrt.metadata import read_png, version
from latentrt.request import Result, Settings

SETTINGS = Settings(
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
)


def result(prompt: str = SETTINGS.prompt, negative: str = SETTINGS.negative, bundle: str = "emoji") -> Result:
    settings = Settings(**{**vars(SETTINGS), "prompt": prompt, "negative": negative})
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
        "version": version(),
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
        "a red apple\nNegative prompt: blue\nSteps: 5, Sampler: ddim, Schedule type: karras, CFG scale: 3.5, Seed: 7, "
        f"Size: 16x8, Model hash: 0123456789, Model: emoji, Version: latentrt {version()}"
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
    assert f", Model: {model}, Version: " in parameters(png)
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


def test_a_record_makes_the_image_again(png: Path) -> None:
    with latentrt.load("emoji") as pipeline:
        made = pipeline.generate("a red apple", steps=1, seed=7, batch=2, width=32, height=24)
        made.save(png, 1)
        record = read_png(png)
        options: dict[str, Any] = {
            key: value for key, value in record.items() if key not in ("version", "bundle", "engine")
        }
        again = pipeline.generate(**options)
    assert record["bundle"]["sha256"] == pipeline.bundle.sha256
    assert again.images[0].tobytes() == made.images[1].tobytes()


def test_metadata_can_be_left_out(png: Path) -> None:
    result().save(png, metadata=False)
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
    with pytest.raises(RequestError, match="apple.png: not a readable PNG"):
        read_png(png)


def test_another_format_is_no_png(png: Path) -> None:
    Image.new("RGB", (8, 8)).save(png, format="JPEG")
    with pytest.raises(RequestError, match="not a readable PNG"):
        read_png(png)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.png", tmp_path):
        with pytest.raises(RequestError, match=f"{path}: not a readable PNG"):
            read_png(path)


def test_a_png_that_says_it_is_enormous(png: Path) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    end = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))
    png.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + end)
    with pytest.raises(RequestError, match="not a readable PNG"):
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
