"""The mark that a picture was generated, in every format, as another reader finds it."""

import xml.etree.ElementTree as ElementTree

import pytest
from PIL import Image

import latentrt

SOURCE = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
LIST = "http://cv.iptc.org/newscodes/digitalsourcetype/"
ENDINGS = ("png", "jpg", "webp")


def source_of(path):
    """The source type that the file's XMP names; None without XMP."""
    with Image.open(path) as image:
        image.load()
        found = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if not found:
        return None
    text = found.decode() if isinstance(found, bytes) else found
    root = ElementTree.fromstring(text[text.index("<x:xmpmeta") : text.rindex("<?xpacket")])
    [value] = [element.get(SOURCE) for element in root.iter() if element.get(SOURCE)]
    return value.removeprefix(LIST)


@pytest.fixture(scope="module")
def pipeline():
    with latentrt.load("emoji") as pipe:
        yield pipe


@pytest.fixture(scope="module")
def result(pipeline):
    return pipeline.generate("a red apple", steps=1, width=64, height=64, seed=1)


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_carries_the_mark(result, tmp_path, ending):
    result.save(tmp_path / f"a.{ending}")
    assert source_of(tmp_path / f"a.{ending}") == "trainedAlgorithmicMedia"


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("mark", [True, False])
def test_mark_and_settings_are_left_out_apart(result, tmp_path, ending, metadata, mark):
    path = tmp_path / f"a.{ending}"
    result.save(path, metadata=metadata, mark=mark)
    assert (source_of(path) is not None) == mark
    with Image.open(path) as image:
        image.load()
        settings = "parameters" in image.info if ending == "png" else bool(image.getexif())
    assert settings == metadata


def test_a_picture_made_of_another_says_so(pipeline, result, tmp_path):
    made = pipeline.generate("a cat", steps=2, init=result.images[0], strength=0.5, seed=1)
    made.save(tmp_path / "a.png")
    assert source_of(tmp_path / "a.png") == "compositeWithTrainedAlgorithmicMedia"


def test_the_pixels_are_the_same_with_and_without(result, tmp_path):
    for mark in (True, False):
        result.save(tmp_path / f"{mark}.png", mark=mark)
    with Image.open(tmp_path / "True.png") as one, Image.open(tmp_path / "False.png") as other:
        assert one.tobytes() == other.tobytes()
