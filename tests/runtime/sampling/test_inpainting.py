from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentrt.bundle.folder import Bundle
from latentrt.errors import RequestError
from latentrt.images.mask import region
from latentrt.pipeline.metadata import read_png
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.request import Request
from latentrt.request.settings import resolve
from latentrt.sampling.samplers import SAMPLERS
from tests.runtime.fake import named

DIFFUSION = [name for name, sampler in SAMPLERS.items() if not sampler.flow]


def image_of(size: tuple[int, int]) -> Image.Image:
    """Colours at random, the same ones each time."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))


def mask_of(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", size)
    for box in boxes:
        mask.paste(255, box)
    return mask


INIT, RIGHT = image_of((32, 24)), mask_of((32, 24), (16, 0, 32, 24))
PAINTED = np.array([False, False, True, True])  # the columns of latents


@pytest.mark.parametrize("sampler", DIFFUSION)
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_what_is_not_masked_stays_through_every_step(fake: Pipeline, calls: Any, sampler: str, strength: float) -> None:
    options: dict[str, Any] = {"steps": 6, "seed": 0, "sampler": sampler, "init": INIT, "strength": strength}
    *_, last = fake.steps(Request("a", guidance=1.0, mask=RIGHT, **options))
    [feeds] = named(calls, "vae_encoder")
    clean, _ = fake.encode(feeds["image"])
    np.testing.assert_array_equal(last.latents[..., ~PAINTED], clean[..., ~PAINTED])
    assert np.abs(last.latents[..., PAINTED] - clean[..., PAINTED]).min() > 1e-4
    # What the model is shown there is always the image and one noise: that of the first step.
    first, *later = (feeds["sample"][..., ~PAINTED].ravel() for feeds in named(calls, "unet"))
    for sample in later:
        parts = np.stack([clean[..., ~PAINTED].ravel(), first], axis=1)
        _, [residual], *_ = np.linalg.lstsq(parts, sample, rcond=None)
        assert residual < 1e-8


def test_what_is_masked_is_painted_the_same_with_all_of_it_masked(fake: Pipeline) -> None:
    options: dict[str, Any] = {"steps": 4, "seed": 0, "init": INIT, "strength": 0.5}
    whole = fake.generate("a", mask=mask_of((32, 24), (0, 0, 32, 24)), **options)
    assert whole.images == fake.generate("a", **options).images


@pytest.mark.parametrize("blur", [0.0, 3.0])
def test_overlay_puts_back_what_is_not_masked(fake: Pipeline, blur: float) -> None:
    options: dict[str, Any] = {"steps": 2, "seed": 0, "init": INIT, "mask": RIGHT, "mask_blur": blur}
    [plain] = fake.generate("a", **options).images
    [overlaid] = fake.generate("a", **options, overlay=True).images
    kept = np.s_[:, : 16 if not blur else 6]
    np.testing.assert_array_equal(np.asarray(overlaid)[kept], np.asarray(INIT)[kept])
    np.testing.assert_array_equal(np.asarray(overlaid)[:, 28:], np.asarray(plain)[:, 28:])
    assert plain.tobytes() != overlaid.tobytes()


def test_the_masked_part_alone_is_painted_at_the_size_asked_for(fake: Pipeline, calls: Any) -> None:
    init, mask = image_of((200, 120)), mask_of((200, 120), (90, 50, 110, 60))
    options: dict[str, Any] = {"steps": 2, "seed": 0, "init": init, "mask": mask, "mask_padding": 6}
    [image] = fake.generate("a", **options, width=64, height=48).images
    assert image.size == (200, 120)
    assert named(calls, "vae_encoder")[0]["image"].shape == (1, 3, 48, 64)
    kept = np.asarray(mask) == 0
    np.testing.assert_array_equal(np.asarray(image)[kept], np.asarray(init)[kept])
    assert not (np.asarray(image)[~kept] == np.asarray(init)[~kept]).all()
    settings = resolve(Request("a", **options), fake.bundle.manifest)
    assert (settings.width, settings.height) == (128, 128)


@pytest.mark.parametrize(
    ("box", "ratio", "padding", "expected"),
    [
        ((40, 40, 60, 60), 1.0, 0, (40, 40, 60, 60)),
        ((40, 40, 60, 60), 2.0, 5, (20, 35, 80, 65)),
        ((0, 0, 10, 50), 1.0, 0, (0, 0, 50, 50)),
        ((90, 90, 100, 100), 0.5, 10, (80, 60, 100, 100)),
        ((0, 0, 100, 10), 0.5, 0, (0, 0, 100, 100)),
    ],
)
def test_the_part_that_is_painted(box: Any, ratio: float, padding: int, expected: Any) -> None:
    assert region(mask_of((100, 100), box), ratio, padding) == expected


def test_what_is_beyond_the_sides_is_painted_and_nothing_else(fake: Pipeline, calls: Any) -> None:
    options: dict[str, Any] = {"steps": 2, "seed": 0, "init": INIT, "strength": 1.0, "extend": (8, 0, 16, 24)}
    [image] = fake.generate("a", **options, overlay=True).images
    assert image.size == (56, 48)
    np.testing.assert_array_equal(np.asarray(image)[:24, 8:40], np.asarray(INIT))
    [feeds] = named(calls, "vae_encoder")
    shown = ((feeds["image"][0].transpose(1, 2, 0) / 2 + 0.5) * 255).round()
    np.testing.assert_array_equal(shown, np.pad(np.asarray(INIT), ((0, 24), (8, 16), (0, 0)), "edge"))
    source = resolve(Request("a", **options), fake.bundle.manifest).init_image
    assert source is not None
    painted = source.latent_mask(56, 48, 8)
    assert painted is not None
    expected = np.ones((6, 7), bool)
    expected[:3, 1:5] = False
    np.testing.assert_array_equal(painted[0, 0], expected)


def test_a_mask_and_what_is_beyond_the_sides_are_painted(bundle: Bundle) -> None:
    source = resolve(Request("a", init=INIT, mask=RIGHT, extend=(0, 8, 0, 0)), bundle.manifest).init_image
    assert source is not None
    painted = source.latent_mask(32, 32, 8)
    assert painted is not None
    np.testing.assert_array_equal(painted[0, 0], [[True] * 4, *[[False, False, True, True]] * 3])


def test_an_extended_picture_says_what_of(fake: Pipeline, tmp_path: Path) -> None:
    result = fake.generate("a", steps=2, seed=0, init=INIT, extend=(8, 0, 0, 0), mask_blur=1.0)
    result.save(tmp_path / "x.png")
    record = read_png(tmp_path / "x.png")
    assert record["extend"] == [8, 0, 0, 0] and record["init"]["size"] == [32, 24] and "mask" not in record
    fields = {key: value for key, value in record.items() if key not in ("version", "bundle", "engine")}
    assert fake.generate(**fields | {"init": INIT}).images == result.images


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"mask": RIGHT}, "without init; give init too"),
    ({"init": INIT, "mask": mask_of((24, 32))}, "mask: got 24x32 pixels, expected 32x24, the size of the init"),
    ({"init": INIT, "mask": mask_of((32, 24))}, "mask: got nothing white in it"),
    ({"init": INIT, "mask": RIGHT.point(lambda grey: grey // 3)}, "mask: got nothing white in it"),
    ({"init": INIT, "mask_blur": 4.0}, "mask_blur: got 4.0 without mask; give mask too"),
    ({"mask_padding": 0}, "mask_padding: got 0 without init"),
    ({"init": INIT, "overlay": True}, "overlay: got True without mask"),
    ({"extend": (8, 0, 0, 0)}, "extend: got (8, 0, 0, 0) without init"),
    ({"init": INIT, "extend": (0, 0, 0, 0)}, "extend: got (0, 0, 0, 0), expected pixels at the left, top, right and"),
    ({"init": INIT, "extend": (8, 8)}, "extend: got (8, 8), expected pixels at the left, top, right and bottom"),
    ({"init": INIT, "extend": (8, 0, 0, -8)}, "extend: got -8, expected a whole number from 0 to 4096"),
    ({"init": INIT, "mask": RIGHT, "overlay": "yes"}, "overlay: got 'yes', expected True or False"),
    ({"init": INIT, "mask": RIGHT, "mask_blur": -1}, "mask_blur: got -1, expected a number from 0 to 4096"),
    ({"init": INIT, "mask": RIGHT, "mask_padding": 1.5}, "mask_padding: got 1.5, expected a whole number"),
    ({"init": INIT, "mask": "nowhere.png"}, "mask: nowhere.png is not a readable image"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_is_refused(bundle: Bundle, options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        resolve(Request("a", **options), bundle.manifest)
    assert said in str(caught.value)


def test_a_picture_says_how_it_was_painted(fake: Pipeline, tmp_path: Path) -> None:
    result = fake.generate(
        "a", steps=2, seed=0, init=INIT, mask=RIGHT, mask_blur=2, mask_padding=4, width=32, height=24
    )
    result.save(tmp_path / "x.png")
    record = read_png(tmp_path / "x.png")
    assert (record["mask_blur"], record["mask_padding"], record["overlay"]) == (2.0, 4, False)
    with Image.open(tmp_path / "x.png") as image:
        text = image.text["parameters"]  # type: ignore[attr-defined]
    assert ", Mask blur: 2.0, Inpaint area: Only masked, Masked area padding: 4, Version: " in text
    fields = {key: value for key, value in record.items() if key not in ("version", "bundle", "engine")}
    assert fake.generate(**fields | {"init": INIT, "mask": RIGHT}).images == result.images
