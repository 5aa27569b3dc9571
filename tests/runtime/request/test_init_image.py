import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentrt.bundle.folder import Bundle
from latentrt.bundle.tasks import tasks_of
from latentrt.errors import RequestError
from latentrt.images.pillow import to_pixels
from latentrt.pipeline.metadata import read_png
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.control import Control
from latentrt.request.request import Request
from latentrt.request.settings import Settings, resolve
from latentrt.sampling.noise.torch_cpu import TorchGenerator
from tests.runtime.fake import named

RED = Image.new("RGB", (24, 16), "red")


def settled(bundle: Bundle, **options: Any) -> Settings:
    return resolve(Request("a red apple", **options), bundle.manifest)


def refusal(bundle: Bundle, **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        settled(bundle, **options)
    return str(caught.value)


@pytest.mark.parametrize(("given", "size"), [((24, 16), (24, 16)), ((31, 17), (24, 16)), ((8, 15), (8, 8))])
def test_the_size_is_the_image_s_cut_to_multiples(bundle: Bundle, given: Any, size: tuple[int, int]) -> None:
    settings = settled(bundle, init=Image.new("RGB", given))
    assert (settings.width, settings.height) == size
    assert settled(bundle, init=Image.new("RGB", given), width=64, height=40).width == 64


@pytest.mark.parametrize(
    ("steps", "strength", "taken"), [(20, 0.8, 16), (20, 0.35, 7), (10, 0.7, 7), (3, 0.34, 1), (1, 1.0, 1), (5, 1, 5)]
)
def test_the_last_steps_are_taken(fake: Pipeline, steps: int, strength: float, taken: int) -> None:
    whole = list(fake.steps(Request("a", steps=steps, seed=0, width=24, height=16)))
    some = list(fake.steps(Request("a", steps=steps, seed=0, init=RED, strength=strength)))
    assert [step.index for step in some] == list(range(taken)) and {step.total for step in some} == {taken}
    assert [(step.timestep, step.sigma) for step in some] == [(step.timestep, step.sigma) for step in whole[-taken:]]


def test_a_step_has_its_own_guidance_and_text_wherever_the_run_starts(fake: Pipeline, calls: Any) -> None:
    options: dict[str, Any] = {"steps": 4, "seed": 0, "guidance": (1, 1, 3, 3), "width": 24, "height": 16}
    list(fake.steps(Request("a [red:green:0.5] apple", **options)))
    whole = [feeds["cross_kv"] for feeds in named(calls, "unet")]
    calls.clear()
    list(fake.steps(Request("a [red:green:0.5] apple", **options, init=RED, strength=0.75)))
    for feeds, kv in zip(named(calls, "unet"), whole[1:], strict=True):
        np.testing.assert_array_equal(feeds["cross_kv"], kv)


def test_the_image_is_encoded_once_for_a_batch(fake: Pipeline, calls: Any) -> None:
    list(fake.steps(Request("a", steps=10, seed=0, batch=2, init=RED)))
    [feeds] = named(calls, "vae_encoder")
    assert feeds["image"].shape == (1, 3, 16, 24)
    np.testing.assert_array_equal(feeds["image"][0, :, 0, 0], [1, -1, -1])


def test_a_draw_from_the_posterior_comes_before_all_others(fake: Pipeline, calls: Any) -> None:
    stream = TorchGenerator(0)
    first, second = (stream.randn((4, 2, 3)) for _ in range(2))
    mean, deviation = fake.encode(to_pixels(RED))
    for posterior, clean, noise in (("mean", mean, first), ("sample", mean + deviation * first, second)):
        [step] = fake.steps(Request("a", steps=10, seed=0, guidance=1.0, init=RED, strength=0.1, posterior=posterior))
        expected = (clean + step.sigma * noise) / np.hypot(1, step.sigma)
        np.testing.assert_allclose(named(calls, "unet")[-1]["sample"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("posterior", ["mean", "sample"])
def test_an_image_is_the_same_alone_and_in_a_batch(emoji: Pipeline, posterior: Any) -> None:
    options: dict[str, Any] = {"steps": 4, "sampler": "dpmpp_2m_sde", "init": RED, "posterior": posterior}
    batch = emoji.generate("a", seed=5, batch=2, **options)
    alone = emoji.generate("a", seed=6, **options)
    difference = np.asarray(batch.images[1], int) - np.asarray(alone.images[0], int)
    assert np.abs(difference).max() <= 1
    assert batch.images[0].tobytes() != batch.images[1].tobytes()


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_file_is_as_good_as_an_image(bundle: Bundle, tmp_path: Path, suffix: str) -> None:
    RED.save(tmp_path / f"red.{suffix}")
    for path in (tmp_path / f"red.{suffix}", str(tmp_path / f"red.{suffix}")):
        source = settled(bundle, init=path).init_image
        assert source is not None
        assert np.abs(np.asarray(source.image, int) - np.asarray(RED, int)).max() <= 2


def test_a_photo_is_turned_as_its_camera_says(bundle: Bundle, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    RED.save(tmp_path / "red.jpg", exif=exif)
    settings = settled(bundle, init=tmp_path / "red.jpg")
    assert (settings.width, settings.height) == (16, 24)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_every_mode_of_8_bits_is_taken(bundle: Bundle, mode: str) -> None:
    source = settled(bundle, init=RED.convert("L").convert(mode) if mode == "LA" else RED.convert(mode)).init_image
    assert source is not None and source.image.mode == "RGB"


def steered(bundle: Bundle) -> Bundle:
    """The bundle with what sees a ControlNet's image, of which only the name and the input count here."""
    encoder = bundle.manifest.components["vae_encoder"]
    hint = replace(encoder, role="controlnet_hint", controls=("canny",))
    components = {**bundle.manifest.components, "hint_canny": hint}
    return replace(bundle, manifest=replace(bundle.manifest, components=components))


@pytest.mark.parametrize(
    ("where", "options"),
    [
        ("init", lambda path: {"init": path}),
        ("mask", lambda path: {"init": RED, "mask": path}),
        ("control canny", lambda path: {"controls": [Control("canny", path)]}),
    ],
    ids=["init", "mask", "control"],
)
def test_files_that_are_no_images(
    bundle: Bundle, tmp_path: Path, where: str, options: Callable[[Path], dict[str, Any]]
) -> None:
    (tmp_path / "text.png").write_text("an apple")
    RED.save(tmp_path / "red.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "red.png").read_bytes()[:-30])
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "bomb.png").write_bytes(bomb)
    for name in ("text.png", "half.png", "bomb.png", "nowhere.png", ""):
        message = refusal(steered(bundle), **options(tmp_path / name))
        assert message.startswith(f"{where}: {tmp_path / name} is not a readable image (") and "\n" not in message


def test_what_cannot_be_started_from(bundle: Bundle) -> None:
    assert refusal(bundle, init=Image.new("RGB", (7, 30))) == (
        "init: got an image of 7x30 pixels, expected at least 8x8, or a size"
    )
    assert refusal(bundle, init=5).startswith("init: got 5, expected an image or the path of its file; ")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"init": RED, "strength": 0}, "strength: got 0 with 20 steps, which leaves none of them; expected at least 0.05"),
    ({"init": RED, "strength": 0.3, "steps": 3}, "which leaves none of them; expected at least 0.333"),
    ({"init": RED, "strength": 1.1}, "strength: got 1.1, expected a number from 0 to 1"),
    ({"init": RED, "strength": -0.1}, "strength: got -0.1, expected a number from 0 to 1"),
    ({"strength": 0.5}, "strength: got 0.5 without init; give init too"),
    ({"fit": "crop"}, "fit: got 'crop' without init"),
    ({"posterior": "sample"}, "posterior: got 'sample' without init"),
    ({"init": RED, "fit": "pad"}, "fit: got 'pad', expected one of stretch, crop"),
    ({"init": RED, "posterior": "mode"}, "posterior: got 'mode', expected one of mean, sample"),
    ({"init": RED, "width": 100}, "the nearest are 96 or 104"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_is_refused(bundle: Bundle, options: dict[str, Any], said: str) -> None:
    assert said in refusal(bundle, **options)


def test_a_bundle_without_an_encoder_says_so(bundle: Bundle) -> None:
    components = {name: part for name, part in bundle.manifest.components.items() if name != "vae_encoder"}
    without = replace(bundle, manifest=replace(bundle.manifest, components=components))
    assert refusal(without, init=RED) == "init: emoji has no vae_encoder; export it anew with `latentrt export`"
    assert tasks_of(components) == ("text-to-image",)
    assert tasks_of(bundle.manifest.components) == bundle.manifest.tasks


def test_a_picture_says_how_it_was_started(fake: Pipeline, tmp_path: Path) -> None:
    result = fake.generate("a", steps=4, seed=0, init=RED, strength=0.5, fit="crop")
    result.save(tmp_path / "x.png")
    record = read_png(tmp_path / "x.png")
    assert (record["strength"], record["fit"], record["posterior"]) == (0.5, "crop", "mean")
    assert record["init"]["size"] == [24, 16] and len(record["init"]["sha256"]) == 64
    with Image.open(tmp_path / "x.png") as image:
        assert ", Model: emoji, Denoising strength: 0.5, RNG: CPU, " in image.text["parameters"]  # type: ignore[attr-defined]
    fields = {key: value for key, value in record.items() if key not in ("version", "bundle", "engine")}
    assert fake.generate(**fields | {"init": RED}).images == result.images
