"""Inpainting of pictures of any size: what is masked changes, all else stays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import latentrt
from latentrt.cli import cli
from latentrt.errors import RequestError
from latentrt.pipeline.inpaint import inpaint


def picture(width: int, height: int) -> Image.Image:
    """A picture of noise."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8))


def hole(width: int, height: int) -> Image.Image:
    """A mask whose middle is white."""
    mask = Image.new("L", (width, height))
    mask.paste(255, (width // 4, height // 4, width // 2, height // 2))
    return mask


@pytest.mark.parametrize(("size", "batch"), [((64, 64), 1), ((61, 45), 3), ((129, 77), 1)])
def test_only_the_hole_changes(emoji: latentrt.Pipeline, size: tuple[int, int], batch: int) -> None:
    image, mask = picture(*size), hole(*size)
    result = inpaint(emoji, image, mask, prompt="a red apple", steps=2, seed=0, batch=batch)
    assert len(result.images) == batch
    white = np.asarray(mask) > 127
    for one in result.images:
        assert one.size == size
        same = (np.asarray(one) == np.asarray(image)).all(-1)
        assert same[~white].all() and not same[white].all()


def test_a_size_that_fits_is_what_generate_makes(emoji: latentrt.Pipeline) -> None:
    image, mask = picture(64, 64), hole(64, 64)
    ours = inpaint(emoji, image, mask, prompt="a red apple", steps=2, seed=0)
    options = {"init": image, "mask": mask, "overlay": True, "strength": 1.0}
    assert ours.images[0].tobytes() == emoji.generate("a red apple", steps=2, seed=0, **options).images[0].tobytes()


def test_what_does_not_fit_is_refused(emoji: latentrt.Pipeline) -> None:
    image, mask = picture(64, 64), hole(64, 64)
    for given, options, message in (
        ((image, hole(64, 48)), {}, "mask: got 64x48 pixels, expected 64x64, the size of the picture"),
        ((image, mask), {"width": 32}, "width: got 32, expected options such as prompt"),
        ((image, Image.new("L", (64, 64))), {}, "nothing white in it"),
        (("none.png", mask), {}, "image: none.png is not a readable image"),
    ):
        with pytest.raises(RequestError, match=message):
            inpaint(emoji, *given, steps=1, **options)


def test_the_command(tmp_path: Path) -> None:
    picture(61, 45).save(tmp_path / "in.png")
    hole(61, 45).save(tmp_path / "hole.png")
    image, mask, out = (str(tmp_path / name) for name in ("in.png", "hole.png", "out.png"))
    options = ["--out", out, "--bundle", "emoji", "--steps", "1", "--engine", "cpu", "--json"]
    done = CliRunner().invoke(cli, ["inpaint", image, mask, *options], catch_exceptions=False)
    assert json.loads(done.stdout)["files"] == [out]
    with Image.open(out) as written:
        assert written.size == (61, 45)
