"""Images that clients send."""

import base64
import io

import pytest
from PIL import Image

from latentrt.errors import RequestError
from latentrt_serve.inputs import image_of


def png(width=4, height=3):
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("text", [png(), f"data:image/png;base64,{png()}"])
def test_data_urls_and_base64_are_read(text):
    assert image_of("init", text, 100).size == (4, 3)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("http://127.0.0.1/a.png", "init: got an address, expected a data URL"),
        ("file:///etc/passwd", "init: got an address"),
        ("/etc/passwd", "init: got"),
        ("ftp://x,y", "init: got an address"),
        ("data:image/png,abc", "without base64"),
        ("data:image/png;base64,@@@", "no base64"),
        ("AAAA", "3 bytes that are no image"),
        (3, "init: got int, expected a data URL"),
        (png(20, 20), "got 20x20 pixels, expected at most 100 in all"),
    ],
)
def test_everything_else_is_refused(value, message):
    with pytest.raises(RequestError, match=message):
        image_of("init", value, 100)


def test_a_picture_that_is_cut_off_is_refused():
    whole = base64.b64decode(png(64, 64))
    with pytest.raises(RequestError, match="no image"):
        image_of("init", base64.b64encode(whole[: len(whole) // 2]).decode(), 10_000)
