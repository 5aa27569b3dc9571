"""Pictures as a terminal draws them: each form is read back by a reader of its own."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from latentrt.images.terminal import FORMS, drawn, form_for


def picture(width: int, height: int) -> Image.Image:
    """Few colours, so that 255 hold them all: a pattern, and a wide area of one colour."""
    random = np.random.default_rng(width * height)
    pixels = random.integers(0, 6, (height, width, 3)).astype(np.uint8) * 51
    pixels[: height // 2] = (255, 0, 51)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("width", "height"), [(16, 16), (7, 13), (1, 1), (300, 200)])
def test_kitty_gets_the_picture_as_a_png_in_chunks(width: int, height: int) -> None:
    image = picture(width, height)
    parts = re.findall(r"\x1b_G(.*?);(.*?)\x1b\\", drawn(image, "kitty", 80))
    assert [keys.endswith("m=1") for keys, _ in parts] == [True] * (len(parts) - 1) + [False]
    assert parts[0][0].startswith("f=100,a=T,") and all(len(data) <= 4096 for _, data in parts)
    got = Image.open(io.BytesIO(base64.standard_b64decode("".join(data for _, data in parts))))
    np.testing.assert_array_equal(np.asarray(got), np.asarray(image))


def read_sixels(text: str) -> np.ndarray:
    """The pixels of a sixel picture, 0 to 100 per channel; -1 where nothing was drawn."""
    start = re.match(r'\x1bPq"1;1;(\d+);(\d+)', text)
    width, height = int(start[1]), int(start[2])
    body = text[start.end() : -2]
    palette = {int(n): [int(v) for v in rgb] for n, *rgb in re.findall(r"#(\d+);2;(\d+);(\d+);(\d+)", body)}
    out = np.full((height + 6, width, 3), -1)
    top = x = 0
    for colour, count, char in tokens(body):
        if colour is not None:
            current = palette[colour]
        elif char == "$":
            x = 0
        elif char == "-":
            x, top = 0, top + 6
        else:
            for bit in range(6):
                if (ord(char) - 63) >> bit & 1:
                    out[top + bit, x : x + count] = current
            x += count
    return out[:height]


def tokens(body: str):
    """(colour, None, None) for a choice of colour, (None, count, character) for sixels and line ends."""
    for found in re.finditer(r"#(\d+);2;\d+;\d+;\d+|#(\d+)|!(\d+)(.)|(.)", body):
        if found[1] is not None:
            continue
        if found[2] is not None:
            yield int(found[2]), None, None
        elif found[3] is not None:
            yield None, int(found[3]), found[4]
        else:
            yield None, 1, found[5]


@pytest.mark.parametrize(("width", "height"), [(16, 16), (7, 13), (1, 1), (9, 6)])
def test_sixels_are_the_picture(width: int, height: int) -> None:
    image = picture(width, height)
    expected = np.round(np.asarray(image).astype(float) / 2.55)
    assert np.abs(read_sixels(drawn(image, "sixel", 80)) - expected).max() <= 1


@pytest.mark.parametrize(("width", "height"), [(16, 16), (7, 13), (1, 1)])
def test_blocks_are_two_pixels_each(width: int, height: int) -> None:
    image = picture(width, height)
    rows = []
    for line in drawn(image, "blocks", 80).split("\n"):
        cells = re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m\N{UPPER HALF BLOCK}", line)
        numbers = np.array(cells, int).reshape(-1, 2, 3)
        rows += [numbers[:, 0], numbers[:, 1]]
    np.testing.assert_array_equal(np.array(rows)[:height], np.asarray(image))


@pytest.mark.parametrize("form", FORMS)
def test_a_wide_picture_is_reduced_and_a_small_one_stays(form: str) -> None:
    wide, small = Image.new("RGB", (2000, 100)), Image.new("RGB", (4, 4))
    assert len(drawn(wide, form, 20)) < len(drawn(wide, form, 200))
    assert drawn(small, form, 20) == drawn(small, form, 200)
    assert drawn(Image.new("L", (4, 4)), form, 20) == drawn(small, form, 20)


@pytest.mark.parametrize(
    ("environment", "form"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"KITTY_WINDOW_ID": "1", "TERM": "screen"}, "kitty"),
        ({"TERM_PROGRAM": "WezTerm", "TERM": "xterm-256color"}, "kitty"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "xterm-256color"}, "blocks"),
        ({}, "blocks"),
    ],
)
def test_the_form_is_that_of_the_terminal(environment: dict[str, str], form: str) -> None:
    assert form_for(environment) == form
