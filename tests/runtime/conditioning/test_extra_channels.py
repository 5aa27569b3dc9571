"""What a UNet is fed besides noisy latents: in which channels, under which text, in which window."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentrt.bundle.folder import Bundle
from latentrt.bundle.sources import ExtraChannelsName, extra_channels_of, latents_source
from latentrt.errors import BundleError, RequestError
from latentrt.images.pillow import to_pixels
from latentrt.pipeline.load import check_complete, load_tokenizer
from latentrt.pipeline.memory import demand_of
from latentrt.pipeline.metadata import read_png
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.request import Request
from latentrt.request.settings import resolve
from latentrt.sampling.noise.torch_cpu import TorchGenerator
from latentrt.sampling.prediction import PREDICTIONS
from tests.runtime.fake import ANSWERS, FakeEngine, named, predict

INPAINTING: tuple[ExtraChannelsName, ...] = ("mask", "masked_image")
EDITING: tuple[ExtraChannelsName, ...] = ("image",)
INIT = Image.effect_noise((40, 24), 90).convert("RGB")
LEFT = Image.new("L", INIT.size)
LEFT.paste(255, (0, 0, 17, 24))  # the third column of latents is white at its first pixel
NAMED = ("version", "bundle", "engine")

Showing = Callable[..., Pipeline]


def widened(bundle: Bundle, shown: tuple[ExtraChannelsName, ...]) -> Bundle:
    """The bundle, as if its UNet were shown these."""
    components = dict(bundle.manifest.components)
    sample, *others = components["unet"].inputs
    channels = 4 + sum(1 if name == "mask" else 4 for name in shown)
    wider = replace(sample, shape=(sample.shape[0], channels, *sample.shape[2:]))
    sources = {**components["unet"].sources, "sample": latents_source(*extra_channels_of(shown, 4))}
    components["unet"] = replace(components["unet"], inputs=(wider, *others), sources=sources)
    return replace(bundle, manifest=replace(bundle.manifest, components=components))


def looking(sample: Any, time_bias: Any, cross_kv: Any) -> dict[str, Any]:
    """A UNet whose prediction depends on all that it is shown."""
    seen = np.arange(1, sample.shape[1] - 3)[:, None, None] * sample[:, 4:]
    [plain] = predict(sample[:, :4], time_bias, cross_kv).values()
    return {"prediction": plain + 0.02 * seen.sum(1, keepdims=True)}


@pytest.fixture
def showing(bundle: Bundle, calls: Any) -> Showing:
    """Makes the built-in model on fake engines, its UNet shown what is asked for."""

    def pipeline(shown: tuple[ExtraChannelsName, ...], **options: Any) -> Pipeline:
        changed = widened(bundle, shown)
        answers = ANSWERS | {"unet": looking}
        parts = changed.manifest.components
        engines = {name: FakeEngine(name, parts[name], answer, calls) for name, answer in answers.items()}
        return Pipeline(changed, load_tokenizer(bundle), engines, "fake", **options)

    return pipeline


def test_a_mask_and_what_it_leaves_of_the_image(showing: Showing, calls: Any) -> None:
    pipeline = showing(INPAINTING)
    pipeline.generate("a", steps=2, seed=0, guidance=3.0, batch=2, init=INIT, mask=LEFT)
    [encoded] = named(calls, "vae_encoder")  # at strength 1, nothing of the image itself is needed
    hidden = to_pixels(INIT)
    hidden[..., :17] = 0
    np.testing.assert_array_equal(encoded["image"], hidden)
    mean, _ = pipeline.encode(hidden)
    first, second = named(calls, "unet")
    assert first["sample"].shape == (4, 9, 3, 5)
    for feeds in (first, second):
        np.testing.assert_array_equal(feeds["sample"][:, 4], np.tile(np.float32([1, 1, 1, 0, 0]), (4, 3, 1)))
        np.testing.assert_array_equal(feeds["sample"][:, 5:], np.repeat(mean, 4, axis=0))
    noise = TorchGenerator(1).randn((4, 3, 5))
    np.testing.assert_allclose(first["sample"][1, :4], noise, rtol=0, atol=1e-6)


def test_what_is_not_masked_is_left_to_the_unet(showing: Showing) -> None:
    """And the image's own latents are not put in its place."""
    options: dict[str, Any] = {"steps": 4, "seed": 0, "init": INIT, "strength": 0.5, "guidance": 1.0}
    *_, last = showing(INPAINTING).steps(Request("a", **options, mask=LEFT))
    assert (last.latents != last.denoised).sum() == 0
    mean, _ = showing(INPAINTING).encode(to_pixels(INIT))
    assert np.abs(last.latents - mean)[..., 3:].min() > 0


@pytest.mark.parametrize("init", [None, INIT])
def test_without_a_mask_all_is_painted(showing: Showing, calls: Any, init: Any) -> None:
    pipeline = showing(INPAINTING)
    pipeline.generate("a", steps=1, seed=0, guidance=1.0, init=init, width=40, height=24)
    white = Image.new("L", INIT.size, 255)
    pipeline.generate("a", steps=1, seed=0, guidance=1.0, init=INIT, mask=white)
    one, other = (feeds["sample"] for feeds in named(calls, "unet"))
    np.testing.assert_array_equal(one, other)
    assert (one[:, 4] == 1).all() and {feeds["image"].any() for feeds in named(calls, "vae_encoder")} == {np.False_}


def test_a_masked_image_is_drawn_from_its_posterior_after_the_noise(showing: Showing, calls: Any) -> None:
    pipeline = showing(INPAINTING)
    pipeline.generate("a", steps=1, seed=3, guidance=1.0, init=INIT, mask=LEFT, posterior="sample")
    stream = TorchGenerator(3)
    noise, drawn = (stream.randn((4, 3, 5)) for _ in range(2))
    [feeds], [encoded] = named(calls, "unet"), named(calls, "vae_encoder")
    mean, deviation = pipeline.encode(encoded["image"])
    np.testing.assert_allclose(feeds["sample"][0, :4], noise, rtol=0, atol=1e-6)
    np.testing.assert_allclose(feeds["sample"][0, 5:], (mean + deviation * drawn)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("split", [False, True])
def test_an_image_guides_by_itself(showing: Showing, calls: Any, split: bool) -> None:
    """Brooks et al. (2023), eq. 3, of latents that are not brought to unit variance."""
    pipeline = showing(EDITING, split_guidance=split)
    request = Request("a red apple", "blue", steps=1, seed=0, guidance=5.0, init=INIT, image_guidance=2.5, batch=2)
    run = pipeline.steps(request)
    *_, last = run
    found = named(calls, "unet")
    assert [len(feeds["sample"]) for feeds in found] == ([2, 2, 2] if split else [6])
    joined = {key: np.concatenate([feeds[key] for feeds in found]) for key in found[0]}
    bare, image, text = looking(**joined)["prediction"].reshape(3, 2, 4, 3, 5)
    mean, _ = pipeline.encode(to_pixels(INIT))
    scaling = pipeline.bundle.manifest.latents.scaling
    shown = joined["sample"][:, 4:].reshape(3, 2, 4, 3, 5)
    assert not shown[0].any()
    np.testing.assert_allclose(shown[1:], np.tile(mean / scaling, (2, 2, 1, 1, 1)), rtol=1e-6)
    guided = bare + 5.0 * (text - image) + 2.5 * (image - bare)
    x = joined["sample"][:2, :4]
    prediction = PREDICTIONS[pipeline.bundle.manifest.schedule.prediction]
    np.testing.assert_allclose(last.denoised, prediction.denoised(x, guided, last.sigma), rtol=0, atol=2e-5)
    demand = demand_of(run.settings, 1, pipeline.bundle.manifest)
    assert (demand.prompts, demand.encodes) == (3, True)


@pytest.mark.parametrize(
    ("options", "rows"),
    [({"guidance": 1.0, "init": INIT}, 1), ({"image_guidance": 1.0, "init": INIT}, 2), ({}, 2), ({"init": INIT}, 3)],
)
def test_a_row_is_only_there_where_it_has_a_say(showing: Showing, calls: Any, options: Any, rows: int) -> None:
    showing(EDITING).generate("a", **{"steps": 1, "seed": 0, "guidance": 4.0} | options)
    assert [len(feeds["sample"]) for feeds in named(calls, "unet")] == [rows]


def test_a_window_shows_its_part_of_the_image(showing: Showing, calls: Any) -> None:
    pipeline = showing(EDITING)
    pipeline.generate("a", steps=1, seed=0, guidance=1.0, init=INIT, window=24, stride=16)
    mean, _ = pipeline.encode(to_pixels(INIT))
    found = named(calls, "unet")
    assert len(found) == 2
    for feeds, start in zip(found, (0, 2), strict=True):
        expected = mean[..., start : start + 3] / pipeline.bundle.manifest.latents.scaling
        np.testing.assert_allclose(feeds["sample"][:, 4:], expected, rtol=1e-6)


def test_a_picture_says_how_its_image_guided(showing: Showing, tmp_path: Path) -> None:
    pipeline = showing(EDITING)
    result = pipeline.generate("a", steps=2, seed=0, init=INIT)
    result.save(tmp_path / "x.png")
    record = read_png(tmp_path / "x.png")
    assert (record["image_guidance"], record["strength"]) == (1.5, 1.0)
    with Image.open(tmp_path / "x.png") as image:
        assert ", Image CFG scale: 1.5, " in image.text["parameters"]  # type: ignore[attr-defined]
    fields = {key: value for key, value in record.items() if key not in NAMED}
    assert pipeline.generate(**fields | {"init": INIT}).images == result.images


REFUSED: list[tuple[tuple[ExtraChannelsName, ...], dict[str, Any], str]] = [
    ((), {"init": INIT, "image_guidance": 2.0}, "image_guidance: got 2.0, but emoji edits no images; leave it out"),
    (EDITING, {"image_guidance": 2.0}, "image_guidance: got 2.0 without init; give init too"),
    (EDITING, {"init": INIT, "image_guidance": 0.5}, "image_guidance: got 0.5, expected a number of at least 1"),
]


@pytest.mark.parametrize(("shown", "options", "said"), REFUSED, ids=[said for *_, said in REFUSED])
def test_what_is_refused(bundle: Bundle, shown: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        resolve(Request("a", **options), widened(bundle, shown).manifest)
    assert said in str(caught.value)


def test_a_bundle_needs_its_encoder(bundle: Bundle) -> None:
    inpainting = widened(bundle, INPAINTING)
    check_complete(inpainting)
    components = {name: part for name, part in inpainting.manifest.components.items() if name != "vae_encoder"}
    with pytest.raises(BundleError, match="got no vae_encoder, which a picture needs"):
        check_complete(replace(inpainting, manifest=replace(inpainting.manifest, components=components)))
