"""FILE[:SCALE[:TEXT]] of a command line, and what a picture notes of it."""

from pathlib import Path

import pytest

from latentrt.errors import CheckpointError, RequestError
from latentrt.lora.files import Lora
from latentrt.lora.parse import parse_lora
from latentrt.lora.weights import Applied, loras_of
from latentrt.pipeline.metadata import scales


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a.safetensors", ("a.safetensors",)),
        ("a.safetensors:0.8", ("a.safetensors", 0.8)),
        ("a.safetensors:0.8:-0.5", ("a.safetensors", 0.8, -0.5)),
        ("a:b.safetensors:1e-1", ("a:b.safetensors", 0.1)),
        ("C:\\loras\\a.safetensors", ("C:\\loras\\a.safetensors",)),
        ("C:/loras/a.SAFETENSORS:2:0", ("C:/loras/a.SAFETENSORS", 2.0, 0.0)),
        ("folder:0.5", ("folder", 0.5)),
    ],
)
def test_what_a_text_names(text, expected):
    file, *numbers = expected
    assert parse_lora(text) == Lora(Path(file), *numbers)


@pytest.mark.parametrize(
    "there, text, expected",
    [
        ("ink:0.5", "ink:0.5", ("ink:0.5",)),
        ("ink:0.5", "ink:0.5:0.7", ("ink:0.5", 0.7)),
        ("ink", "ink:0.5:0.7", ("ink", 0.5, 0.7)),
        ("v:2.safetensors", "v:2.safetensors:1", ("v:2.safetensors", 1.0)),
        ("v.safetensors:old", "v.safetensors:old", ("v.safetensors:old",)),
    ],
)
def test_the_file_that_exists_is_meant(tmp_path, there, text, expected):
    (tmp_path / there).touch()
    file, *numbers = expected
    assert parse_lora(f"{tmp_path / text}") == Lora(tmp_path / file, *numbers)


@pytest.mark.parametrize(
    "text, got", [("a.safetensors:", "''"), ("a.safetensors:x", "'x'"), ("a:b.safetensors:1:2:3", "'1:2:3'")]
)
def test_a_scale_that_is_no_number(text, got):
    with pytest.raises(
        RequestError, match=rf"got the scale {got} in .*expected FILE:SCALE .*{text.split('s:')[0]}s:0.8"
    ):
        parse_lora(text)


@pytest.mark.parametrize("text", ["", " "])
def test_no_file(text):
    with pytest.raises(RequestError, match="expected FILE:SCALE"):
        parse_lora(text)


def test_one_number_or_two_a_file():
    file = Path("a.safetensors")
    assert loras_of({"a.safetensors": 0.5}) == (Lora(file, 0.5),)
    assert loras_of({file: (0.5, 0.25)}) == (Lora(file, 0.5, 0.25),)
    assert [Lora(file, 0.5, 0.25).scale_of(name) for name in ("unet", "text_encoder_2")] == [0.5, 0.25]
    for scale in ((), (1, 2, 3)):
        with pytest.raises(CheckpointError, match=r"got the scale \(.*expected a number, or two"):
            loras_of({file: scale})


def test_a_picture_notes_the_second_scale_where_it_differs():
    same, other = Applied("a", "f", 0.5), Applied("a", "f", 0.5, 0.0)
    assert same.record() == {"file": "a", "sha256": "f", "scale": 0.5}
    assert other.record() == same.record() | {"text_scale": 0.0}
    assert [scales(one.record()) for one in (same, other)] == ["0.5", "0.5:0"]
