"""Image prompts at work: what the UNet is given of one image and of several, for which rows."""

from dataclasses import replace

import numpy as np
import pytest

from latentrt.bundle.manifest import Component, Fidelity, Manifest
from latentrt.bundle.sources import control_source, latents_source
from latentrt.conditioning.control import ControlSet
from latentrt.pipeline.memory import MemoryDemand
from latentrt.request.controls import ResolvedControl
from latentrt.tensors import TensorSpec

SAMPLE = TensorSpec("sample", "float32", ("batch", 4, "height", "width"))
TOKENS, WIDTH = {"face": 3, "style": 2}, 4
MADE = [TensorSpec(f"image_kv_{name}", "float32", ("batch", count, WIDTH)) for name, count in TOKENS.items()]
TAKEN = [
    TensorSpec(f"image_kv_{name}", "float32", ("batch", f"{count}*images", WIDTH)) for name, count in TOKENS.items()
]
FEEDS = {"sample": np.zeros((3, 4, 5, 7), np.float32)}
NEGATIVE = [True, False, False]


def component(role, inputs, outputs, sources=None, controls=()):
    fidelity = Fidelity(0.0, None, "")
    return Component(role, "x.onnx", (), "fp32", tuple(inputs), tuple(outputs), fidelity, sources or {}, controls)


IMAGE_ENCODER = "image_encoder"
SOURCES = {"sample": latents_source(), **{spec.name: control_source("image_encoder") for spec in TAKEN}}
COMPONENTS = {
    "unet": component("denoiser", (SAMPLE, *TAKEN), (SAMPLE,), SOURCES),
    IMAGE_ENCODER: component("image_encoder", (), MADE, controls=tuple(TOKENS)),
}
MANIFEST = Manifest(2, "x", "sd1", (), COMPONENTS, None, None, None, None, None, {}, {})


def call(name, image, shown):
    """Keys and values that tell the image by its mean, and none, which is -1."""
    assert name == IMAGE_ENCODER and image.shape == (2, 3, 6, 6) and shown.tolist() == [1, 0]
    seen = np.where(shown == 1, image.mean((1, 2, 3)), -1)[:, np.newaxis, np.newaxis]
    return {spec.name: np.broadcast_to(seen, (2, *spec.shape[1:])).astype(np.float32) for spec in MADE}


def prompted(*controls, steps=1):
    """A run's image prompts; the first image is of ones, the next of twos."""
    made = ControlSet(call, MANIFEST, steps=steps)
    for place, one in enumerate(controls, 1):
        made.attach(one, np.full((1, 3, 6, 6), place, np.float32))
    return made


def prompt(name, *numbers):
    return ResolvedControl(name, None, *numbers, component=IMAGE_ENCODER, role="image_encoder", side=6)


def test_values_are_scaled_and_negative_prompts_are_shown_nothing():
    steered = prompted(prompt("face", 0.5))
    found = steered.feeds(0, FEEDS, NEGATIVE)
    assert found["image_kv_face"].shape == (3, 3, WIDTH)
    assert found["image_kv_face"][:, 0].tolist() == [[-1, -1, -0.5, -0.5], [1, 1, 0.5, 0.5], [1, 1, 0.5, 0.5]]
    assert found["image_kv_style"].shape == (3, 2, WIDTH) and not found["image_kv_style"].any()


def test_the_same_rows_are_given_the_same_array():
    steered = prompted(prompt("face", 0.5), steps=2)
    first, second = (steered.feeds(step, FEEDS, NEGATIVE)["image_kv_face"] for step in range(2))
    assert first is second and not first.flags.writeable


def test_images_of_one_name_are_laid_concatenated_each_as_strong_as_it_says():
    steered = prompted(prompt("face", 0.5), prompt("style", 1.0, 0.0, 0.5), prompt("face", 2.0), steps=2)
    first, second = (steered.feeds(step, FEEDS, NEGATIVE) for step in range(2))
    assert first["image_kv_face"][1, ::3].tolist() == [[1, 1, 0.5, 0.5], [3, 3, 6, 6]]
    assert first["image_kv_style"].shape == second["image_kv_style"].shape == (3, 4, WIDTH)  # as many images
    assert (first["image_kv_style"][1] == 2).all() and not second["image_kv_style"].any()


def test_a_run_has_room_for_the_encoder_where_an_image_prompts():
    demand = MemoryDemand(images=1, prompts=2, height=8, width=8)
    assert not demand.uses(IMAGE_ENCODER, "image_encoder")
    assert replace(demand, steering=frozenset({IMAGE_ENCODER})).uses(IMAGE_ENCODER, "image_encoder")


@pytest.mark.parametrize("times", [2, 3])
def test_repeating_all_tokens_leaves_the_attention_as_it_is(times):
    random = np.random.default_rng(0)
    query, key, value = (random.standard_normal((4, 8)) for _ in range(3))

    def attention(keys, values):
        weights = np.exp(query @ keys.T)
        return weights / weights.sum(-1, keepdims=True) @ values

    repeated = attention(np.tile(key, (times, 1)), np.tile(value, (times, 1)))
    np.testing.assert_allclose(repeated, attention(key, value), rtol=1e-12)
