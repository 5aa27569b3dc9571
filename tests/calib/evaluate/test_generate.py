"""Requests that mean the same to any bundle, and the pictures drawn of them, on fake engines."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from latentrt import RequestError
from latentrt.bundle.catalog import MODELS
from latentrt.bundle.folder import open_bundle
from latentrt.request.request import Request
from latentrt.request.settings import resolve
from latentrt_calib.evaluate.generate import generate_samples, requests_of
from tests.runtime.fake import SMALL, latents_of, named, pipeline_of

BUNDLE = open_bundle(MODELS / "emoji", verify=False)


def test_a_request_takes_the_defaults_of_the_bundle_that_it_is_made_for():
    other = replace(BUNDLE.manifest, defaults=replace(BUNDLE.manifest.defaults, steps=3, guidance=9.0, width=64))
    first, second = requests_of(("a cat", "a dog"), BUNDLE, images=2)
    assert resolve(first, other).record() == resolve(first, BUNDLE.manifest).record()
    again = resolve(replace(second, prompt="a cat", seed=0), BUNDLE.manifest)
    assert resolve(first, BUNDLE.manifest).record() == again.record()


def test_options_are_kept():
    options = {"steps": 5, "sampler": "euler_a", "eta": 0.5, "guidance_interval": (0.3, None), "negative": "blue"}
    (asked,) = requests_of(("a cat",), BUNDLE, images=1, seed=7, **SMALL, **options)
    settings = resolve(asked, BUNDLE.manifest)
    assert (settings.steps, settings.sampler, settings.options, settings.seeds) == (5, "euler_a", {"eta": 0.5}, (7,))
    assert (settings.negative, settings.width, settings.height) == ("blue", SMALL["width"], SMALL["height"])
    assert settings.guidance.interval == (0.3, float("inf"))


def test_no_option_is_dropped():
    options = {
        **{"clip_skip": 2, "noise": "cuda", "syntax": "plain", "guidance_rescale": 0.5, "seamless": "x", "window": 16},
        **{"blend": "a dog", "blend_strength": 0.5, "hires": 2.0, "hires_steps": 3, "lora_tags": "comfyui"},
        **{"sampler": "DPM++ 2M Karras", "solver": "heun"},
    }
    (asked,) = requests_of(("a cat",), BUNDLE, images=1, seed=7, steps=3, **SMALL, **options)
    expected = resolve(Request("a cat", seed=7, steps=3, **SMALL, **options), BUNDLE.manifest)
    assert resolve(asked, BUNDLE.manifest) == expected
    photo = Image.new("RGB", (32, 24), "white")
    (from_image,) = requests_of(("a cat",), BUNDLE, images=1, init=photo, strength=0.5, overlay=True, mask=photo)
    assert (from_image.init, from_image.strength, from_image.overlay, from_image.mask) == (photo, 0.5, True, photo)


def test_prompts_repeat_with_other_seeds():
    asked = requests_of(("a", "b"), BUNDLE, images=5, seed=10)
    assert [(one.prompt, one.seed) for one in asked] == [("a", 10), ("b", 11), ("a", 12), ("b", 13), ("a", 14)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"images": 0}, "images: got 0, expected at least 1"),
        ({"images": 1, "steps": 0}, "steps: got 0"),
        ({"images": 1, "seed": -2}, "seed: got -2"),
        ({"images": 1, "width": 8, "height": 64}, "size: got 8x64, expected at least 11 pixels per side"),
    ],
)
def test_what_cannot_be_drawn_or_compared_is_refused(options, said):
    with pytest.raises(RequestError) as caught:
        requests_of(("a",), BUNDLE, **options)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("size", [SMALL, {"width": 16, "height": 32}])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_drawing_is_the_picture_and_the_latents_after_every_step(size, steps):
    pipeline, pictures = pipeline_of(BUNDLE, []), []
    asked = requests_of(("a cat", "a dog"), BUNDLE, images=2, steps=steps, **size)
    drawn = tuple(generate_samples(pipeline, asked, lambda: pictures.append(1)))
    assert len(pictures) == 2
    for request, drawing in zip(asked, drawn, strict=True):
        assert drawing.settings.prompt == request.prompt
        assert np.array_equal(drawing.latents, latents_of(pipeline, request)[:, 0])
        assert drawing.latents.shape == (steps, 4, size["height"] // 8, size["width"] // 8)
        assert np.array_equal(drawing.image, image_of(pipeline, request))
        assert (drawing.image.shape, drawing.image.dtype) == ((size["height"], size["width"], 3), np.uint8)


def image_of(pipeline, request):
    run = pipeline.steps(request)
    for _ in run:
        pass
    return np.asarray(run.result.images[0])


def test_a_prompt_that_is_malformed_is_found_before_anything_is_drawn():
    calls = []
    asked = requests_of(("a cat", "a (dog"), BUNDLE, images=2, steps=1, **SMALL)
    with pytest.raises(RequestError, match="never closed"):
        next(generate_samples(pipeline_of(BUNDLE, calls), asked))
    assert not named(calls, "unet")
