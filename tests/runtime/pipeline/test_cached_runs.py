"""Runs with a step cache: which component each call goes to, and that pictures depend on nothing else."""

from dataclasses import replace

import pytest
from PIL import Image

import latentrt
from latentrt.bundle.manifest_json import read, write
from latentrt.bundle.presets import Preset
from latentrt.bundle.quantization import PictureLoss
from latentrt.errors import RequestError
from latentrt.request.request import Request
from latentrt.request.settings import resolve
from tests.runtime.fake import SMALL

LOSS = PictureLoss(8, 50.0, 47.0, 0.99, 0.98, (0.01,))


@pytest.fixture(scope="module")
def real():
    with latentrt.load("emoji", engine="onnxruntime") as pipeline:
        yield pipeline


def denoisers(calls):
    """The denoiser of each call: U for the whole, s for the shallow one; and the rows of each."""
    names = {"unet": "U", "unet_shallow": "s"}
    found = [(names[name], len(feeds["sample"])) for name, feeds in calls if name in names]
    return "".join(name for name, _ in found), [rows for _, rows in found]


@pytest.mark.parametrize(
    ("options", "expected", "rows"),
    [
        ({}, "UUUUUUU", [2] * 7),
        ({"cache": 1}, "UUUUUUU", [2] * 7),
        ({"cache": 3}, "UssUssU", [2] * 7),
        ({"cache": (0, 1, 5)}, "UUsssUs", [2] * 7),
        ({"cache": 3, "cache_of": "prediction"}, "UUU", [2] * 3),
        ({"cache": 3, "cache_of": "guidance"}, "UUUUUUU", [2, 1, 1, 2, 1, 1, 2]),
        ({"cache": 3, "cache_of": "features+guidance"}, "UssUssU", [2, 1, 1, 2, 1, 1, 2]),
        ({"cache": 3, "guidance": 1.0}, "UssUssU", [1] * 7),
        ({"cache": 3, "batch": 3}, "UssUssU", [6] * 7),
        ({"cache": 7, "prompt": "a [cat|dog]", "guidance": 1.0}, "UUUUUUU", [1] * 7),  # the prompt changes every step
        ({"cache": 7, "prompt": "a [cat:dog:3]", "guidance": 1.0}, "UssUssU", [1] * 7),
    ],
)
def test_calls_go_to_the_whole_unet_or_to_the_shallow_one(fake, calls, options, expected, rows):
    run = fake.steps(Request(**{"prompt": "a", "guidance": 2.0, "steps": 7, "seed": 0, **SMALL, **options}))
    cached = [step.cached for step in run]
    assert denoisers(calls) == (expected, rows)
    if len(expected) == 7 and "guidance" not in options.get("cache_of", ""):
        assert cached == [name == "s" for name in expected]


def test_both_passes_of_a_picture_have_caches_of_their_own(fake, calls):
    fake.generate("a", steps=4, guidance=1.0, cache=4, hires=2.0, hires_strength=1.0, seed=0, width=16, height=16)
    assert denoisers(calls)[0] == "UssU" * 2


def test_a_picture_to_start_from_shortens_the_list(fake, calls):
    init = Image.new("RGB", (24, 16))
    fake.generate("a", init=init, strength=0.5, steps=8, guidance=1.0, cache=2, seed=0)
    assert denoisers(calls)[0] == "UsUU"


def test_every_tile_has_a_cache(fake, calls):
    fake.generate("a", steps=3, guidance=1.0, cache=3, window=16, stride=8, seed=0, width=24, height=16)
    assert denoisers(calls)[0] == "UU" + "ss" + "UU"


def test_interrupted_guidance_begins_again_with_a_full_call(fake, calls):
    fake.generate("a", steps=6, guidance=(2, 1, 1, 2, 2, 2), cache=(0, 2, 5), seed=0, **SMALL)
    assert denoisers(calls) == ("UsUUsU", [2, 1, 1, 2, 2, 2])


@pytest.mark.parametrize("of", ["features", "features+guidance", "guidance", "prediction"])
@pytest.mark.parametrize("steps", [1, 2, 6])
def test_a_cache_of_nothing_but_full_calls_changes_no_bit(real, steps, of):
    options = {"steps": steps, "seed": 0, "width": 64, "height": 48}
    plain = real.generate("a red apple", **options).images[0].tobytes()
    for calls in (1, tuple(range(steps))):
        cached = real.generate("a red apple", cache=calls, cache_of=of, **options)
        assert cached.images[0].tobytes() == plain


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("of", ["features", "features+guidance", "prediction"])
def test_a_picture_of_a_batch_is_what_it_is_alone(real, of, order):
    options = {"cache": 3, "cache_of": of, "cache_order": order, "steps": 5, "width": 64, "height": 48}
    together = real.generate("a red apple", seed=4, batch=3, **options)
    for number, image in enumerate(together.images):
        alone = real.generate("a red apple", seed=4 + number, **options)
        assert image.tobytes() == alone.images[0].tobytes()
    split = real.with_engines({})
    split.split_guidance = True
    assert split.generate("a red apple", seed=4, **options).images[0].tobytes() == together.images[0].tobytes()


def test_settings_make_the_picture_again(real):
    first = real.generate("a red apple", cache=3, cache_order=1, steps=5, seed=1, width=64, height=48)
    record = first.settings.record()
    assert (record["cache"], record["cache_of"], record["cache_order"]) == (3, "features", 1)
    listed = real.generate("a red apple", cache=(0, 2, 4), cache_order=1, steps=5, seed=1, width=64, height=48)
    assert listed.images[0].tobytes() == first.images[0].tobytes()
    assert listed.settings.record()["cache"] == [0, 2, 4]


def with_presets(pipeline):
    """The pipeline of a bundle that has a preset."""
    manifest = pipeline.bundle.manifest
    measured = Preset("ddim", 20, 2.0, 0.52, LOSS, 10, LOSS, 3, "features+guidance", 1, (0.0, 18.0))
    manifest = replace(manifest, presets={"fast": measured})
    assert read(write(manifest)) == manifest
    return replace(pipeline.bundle, manifest=manifest)


def test_a_preset_stands_for_its_fields_and_gives_way_to_the_request_s(real):
    manifest = with_presets(real).manifest
    found = resolve(Request("a", preset="fast"), manifest)
    assert (found.step_cache.calls, found.step_cache.of, found.step_cache.order) == (3, "features+guidance", 1)
    assert found.guidance.interval == (0.0, 18.0)
    own = resolve(Request("a", preset="fast", cache=2, guidance_interval=(0.0, 3.0)), manifest)
    assert (own.step_cache.calls, own.step_cache.order, own.guidance.interval) == (2, 1, (0.0, 3.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache": 0}, "cache: got 0, expected a whole number of at least 1"),
        ({"cache": (0, 5, 3)}, "cache: got .* expected one number, or rising numbers of calls"),
        ({"cache": ()}, "cache: got .* expected one number, or rising numbers of calls"),
        ({"cache": 2.5}, "cache: got 2.5, expected"),
        ({"cache": (0, 4), "steps": 4}, "cache: got call 4, expected calls from 0 to 3, as the run has"),
        ({"cache_order": 1}, "cache_order: got 1 without cache; give cache too, or leave cache_order out"),
        ({"cache": 3, "cache_order": 2}, "cache_order: got 2, expected a whole number from 0 to 1"),
        ({"cache": 3, "cache_of": "nothing"}, "cache_of: got 'nothing', expected"),
        ({"cache": 3, "cache_of": "prediction", "sampler": "euler_a"}, "with a sampler that draws noise"),
        ({"cache": 3, "cache_of": "guidance", "guidance": 1.0}, "cache_of: got guidance without guidance"),
        ({"cache": (0, 1), "hires": 2.0}, "with hires, expected one number for both passes"),
        ({"preset": "best"}, "preset: got 'best', expected careful or fast or fastest or guidance or late-guidance"),
    ],
)
def test_what_cannot_be_cached_is_said(fake, options, message):
    with pytest.raises(RequestError, match=message):
        fake.steps(Request(**{"prompt": "a", "steps": 4, **SMALL, **options}))


def test_a_bundle_without_presets_says_how_to_have_some(fake):
    fake.bundle = replace(fake.bundle, manifest=replace(fake.bundle.manifest, presets={}))
    with pytest.raises(RequestError, match="got 'fast', but the bundle has none; `latentrt presets` measures some"):
        fake.steps(Request("a", preset="fast"))


def test_a_bundle_without_a_shallow_unet_keeps_predictions_alone(fake, calls):
    manifest = fake.bundle.manifest
    components = {name: one for name, one in manifest.components.items() if name != "unet_shallow"}
    components["unet"] = replace(components["unet"], outputs=components["unet"].outputs[:1])
    fake.bundle = replace(fake.bundle, manifest=replace(manifest, components=components))
    with pytest.raises(RequestError, match="has no shallow UNet; make a bundle with one by `latentrt step-cache`"):
        fake.steps(Request("a", cache=3))
    fake.generate("a", steps=4, cache=3, cache_of="prediction", seed=0, **SMALL)
    assert denoisers(calls)[0] == "UU"
