"""Guidance by its formula, and what it makes the UNet do: which prompts it is asked about, and when."""

import math

import numpy as np
import pytest

from latentrt.request.request import Request
from latentrt.sampling.guidance import Guidance, guided, rescaled
from latentrt.sampling.schedule import noise_scale, signal_scale
from tests.runtime.fake import SMALL, kv_of, latents_of, named, pipeline_of, predictions


def normals(seed=0, batch=2):
    return np.random.default_rng(seed).standard_normal((batch, 4, 3, 5)).astype(np.float32)


def first_denoised(pipeline, prompt, **options):
    """The clean estimate of the first step; from pure noise, under v prediction, it is minus what was predicted."""
    return next(pipeline.steps(Request(prompt, seed=0, **{"steps": 2, **SMALL, **options}))).denoised


def parts(feeds, count):
    """The rows of `count` prompts in what the UNet was fed: the first row of keys and values of each."""
    return [half[0] for half in np.split(feeds["cross_kv"], count)]


@pytest.mark.parametrize("scale", [1.0, 2.5, 7.5])
def test_the_formula(scale):
    u, c = normals(1), normals(2)
    got = guided(u, [(1.0, c)], scale)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, u + scale * (c - u), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 0.25, 2.0), (1.0, -0.5), (0.0, 1.0)])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_formula_of_several_prompts(weights, scale):
    u, conditionals = normals(0), [normals(1 + i) for i in range(len(weights))]
    expected = u + scale * sum(w * (c - u) for w, c in zip(weights, conditionals, strict=True))
    got = guided(u, list(zip(weights, conditionals, strict=True)), scale)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("phi", [0.25, 0.7, 1.0])
def test_rescaling_brings_the_spread_of_each_image_towards_the_conditional_one(phi):
    conditional = normals(1) * np.array([0.5, 2.0], np.float32)[:, None, None, None]
    strong = 3 * normals(2)
    got = rescaled(strong, conditional, phi)
    assert got.dtype == np.float32
    for before, after, wanted in zip(strong, got, conditional, strict=True):
        np.testing.assert_allclose(after.std(), phi * wanted.std() + (1 - phi) * before.std(), rtol=1e-5)
        np.testing.assert_allclose(after / before, after.std() / before.std(), rtol=1e-4)
    strong = guided(normals(3), [(1.0, conditional)], 5.0)
    both = guided(normals(3), [(1.0, conditional)], 5.0, phi)
    np.testing.assert_allclose(both, rescaled(strong, conditional, phi), rtol=1e-4)


def test_the_scale_of_a_step_and_a_level():
    guidance = Guidance((7.0, 0.5, 1.0), (0.3, 3.0))
    assert [guidance.at(0, sigma) for sigma in (0.29, 0.3, 1.0, 3.0, 3.01, math.inf)] == [1, 7, 7, 7, 1, 1]
    assert [guidance.at(step, 1.0) for step in range(3)] == [7, 1, 1]
    assert guidance.works([5.0, 3.0]) and not guidance.works([5.0, 0.2])
    assert not Guidance((1.0, 0.5)).works([1.0])
    assert Guidance((2.0,)).at(0, math.inf) == 2.0


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("guidance", "halves"), [(-2.0, 1), (0.0, 1), (1.0, 1), (1.5, 2), (7.5, 2)])
def test_guidance_doubles_the_batch_only_above_one(fake, calls, guidance, halves, batch):
    fake.generate("a cat", negative="blue", steps=3, guidance=guidance, batch=batch, **SMALL)
    feeds = named(calls, "unet")
    assert [feed["sample"].shape for feed in feeds] == [(halves * batch, 4, 2, 3)] * 3
    prompts = ["blue", "a cat"] if halves == 2 else ["a cat"]
    np.testing.assert_array_equal(named(calls, "text_encoder")[0]["input_ids"], fake.tokenizer(prompts))
    for feed in feeds:  # rows: the negative prompt for every image, then the prompt for every image
        samples = np.split(feed["sample"], halves)
        np.testing.assert_array_equal(samples[0], samples[-1])
        for prompt, rows in zip(prompts, np.split(feed["cross_kv"], halves), strict=True):
            np.testing.assert_array_equal(rows, np.stack([kv_of(fake, prompt)] * batch))


def test_scales_up_to_one_are_all_the_same(fake):
    same = [latents_of(fake, Request("a", steps=3, guidance=g, seed=0, **SMALL)) for g in (-3.0, 0.0, 0.5, 1.0)]
    for latents in same[1:]:
        np.testing.assert_array_equal(latents, same[0])


def test_guided_prediction_is_the_formula(fake, calls):
    strong = first_denoised(fake, "a cat", negative="blue", guidance=7.5)
    negative, positive = np.split(predictions(calls)[0], 2)
    np.testing.assert_allclose(strong, -(negative + 7.5 * (positive - negative)), rtol=1e-5, atol=1e-5)


def test_rescaling_in_a_run(fake, calls):
    soft = first_denoised(fake, "a cat", negative="blue", guidance=7.5, guidance_rescale=0.7)
    negative, positive = np.split(predictions(calls)[0], 2)
    expected = rescaled(negative + np.float32(7.5) * (positive - negative), positive, 0.7)
    np.testing.assert_allclose(soft, -expected, rtol=1e-5, atol=1e-5)
    assert not np.allclose(soft, first_denoised(fake, "a cat", negative="blue", guidance=7.5), atol=1e-4)
    one = [first_denoised(fake, "a cat", guidance=1.0, guidance_rescale=phi) for phi in (0.0, 1.0)]
    np.testing.assert_array_equal(one[0], one[1])


def test_guidance_for_each_step(fake, calls):
    scales = [7.0, 1.0, 3.0, 0.0]
    steps = list(fake.steps(Request("a cat", negative="blue", steps=4, guidance=scales, seed=0, **SMALL)))
    assert [len(feed["sample"]) for feed in named(calls, "unet")] == [2, 1, 2, 1]
    for step, feed, answer, scale in zip(steps, named(calls, "unet"), predictions(calls), scales, strict=True):
        negative, positive = answer[:1], answer[-1:]
        combined = negative + scale * (positive - negative)
        expected = signal_scale(step.sigma) * feed["sample"][:1] - noise_scale(step.sigma) * combined
        np.testing.assert_allclose(step.denoised, expected, rtol=1e-5, atol=1e-5)


def test_equal_scales_are_one_scale(fake):
    options = {"negative": "blue", "steps": 4, "seed": 0, **SMALL}
    one = latents_of(fake, Request("a cat", guidance=3.0, **options))
    np.testing.assert_array_equal(latents_of(fake, Request("a cat", guidance=[3.0] * 4, **options)), one)


def test_outside_the_interval_only_the_prompt_is_asked_about(fake, calls):
    levels = [step.sigma for step in fake.steps(Request("a", steps=5, **SMALL))]
    calls.clear()
    interval = (levels[3], levels[1])  # both ends belong to it
    options = {"steps": 5, "guidance": 7.5, "batch": 3, "guidance_interval": interval, **SMALL}
    fake.generate("a cat", negative="blue", **options)
    feeds = named(calls, "unet")
    assert [len(feed["sample"]) for feed in feeds] == [3, 6, 6, 6, 3]
    for feed, count in zip(feeds, [1, 2, 2, 2, 1], strict=True):
        for row, text in zip(parts(feed, count), ["blue", "a cat"][-count:], strict=True):
            np.testing.assert_array_equal(row, kv_of(fake, text))


def test_in_a_step_of_two_calls_each_has_its_own_level(fake, calls):
    options = {"sampler": "heun", "sigmas": (9.0, 4.0, 2.0, 1.0), **SMALL}
    fake.generate("a", guidance=7.5, guidance_interval=(2.0, 4.0), **options)
    # levels of the calls: 0 1, 1 2, 2 3, 3
    assert [len(feed["sample"]) for feed in named(calls, "unet")] == [1, 2, 2, 2, 2, 1, 1]


@pytest.mark.parametrize("interval", [None, (0.0, math.inf), (0.0, None)])
def test_an_interval_of_everything_is_none(fake, interval):
    options = {"negative": "blue", "steps": 3, "guidance": 4.0, "seed": 0, **SMALL}
    got = latents_of(fake, Request("a cat", guidance_interval=interval, **options))
    np.testing.assert_array_equal(got, latents_of(fake, Request("a cat", **options)))


@pytest.mark.parametrize(
    "options", [{"guidance": 1.0}, {"guidance": [1.0, 0.0, -1.0]}, {"guidance": 7.5, "guidance_interval": (5000, 6000)}]
)
def test_a_negative_prompt_without_a_say_is_not_encoded(fake, calls, options):
    fake.generate("a cat", negative="blue", steps=3, sampler="euler", **SMALL, **options)
    [feed] = named(calls, "text_encoder")
    np.testing.assert_array_equal(feed["input_ids"], fake.tokenizer(["a cat"]))
    assert {len(feed["sample"]) for feed in named(calls, "unet")} == {1}


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize(
    ("prompt", "weights"),
    [
        ("a cat AND a dog", (1.0, 1.0)),
        ("a cat:0.7 AND a dog:0.5 AND snow:-0.4", (0.7, 0.5, -0.4)),
        ("a cat AND a dog:0", (1.0, 0.0)),
        ("a cat:2", (2.0,)),
    ],
)
def test_composed_prompts_are_the_hand_formula(fake, calls, prompt, weights, guidance):
    got = first_denoised(fake, prompt, negative="blue", guidance=guidance, batch=2)
    [feed] = named(calls, "unet")
    [answer] = predictions(calls)
    if guidance == 1 and sum(weights) == 1:  # then the negative prompt cancels out
        u, conditionals = np.float32(0), np.split(answer, len(weights))
    else:
        u, *conditionals = np.split(answer, 1 + len(weights))
    combined = u + guidance * sum(w * (c - u) for w, c in zip(weights, conditionals, strict=True))
    np.testing.assert_allclose(got, -combined, rtol=1e-5, atol=1e-5)
    texts = ["a cat", "a dog", "snow"][: len(weights)]
    for row, text in zip(parts(feed, len(feed["sample"]) // 2)[-len(texts) :], texts, strict=True):
        np.testing.assert_array_equal(row, kv_of(fake, text if text == "a cat" else f" {text}"))


@pytest.mark.parametrize(
    ("prompt", "rows"), [("a:0.25 AND b:0.75", 2), ("a:2 AND b:-1", 2), ("a AND b:0", 2), ("a", 1)]
)
def test_weights_of_one_together_need_no_negative_prompt_without_guidance(fake, calls, prompt, rows):
    fake.generate(prompt, negative="blue", steps=2, guidance=1.0, **SMALL)
    assert len(named(calls, "text_encoder")[0]["input_ids"]) == rows
    assert {len(feed["sample"]) for feed in named(calls, "unet")} == {rows}


@pytest.mark.parametrize("prompt", ["a AND b", "a:0.5", "a:0", "a:-1"])
def test_other_weights_need_one(fake, calls, prompt):
    fake.generate(prompt, negative="blue", steps=2, guidance=1.0, **SMALL)
    prompts = 2 + prompt.count("AND")
    assert {len(feed["sample"]) for feed in named(calls, "unet")} == {prompts}


def test_a_prompt_that_weighs_nothing_leaves_the_negative_one(fake):
    nothing = latents_of(fake, Request("a cat:0", negative="blue", steps=3, guidance=7.5, seed=0, **SMALL))
    negative = latents_of(fake, Request("blue", steps=3, guidance=1.0, seed=0, **SMALL))
    np.testing.assert_allclose(nothing, negative, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prompt", ["a cat", "a cat AND a dog:0.5 AND snow"])
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_split_guidance_gives_the_same_in_a_call_a_prompt(bundle, prompt, guidance):
    request = Request(prompt, negative="blue", steps=3, guidance=guidance, seed=0, batch=2, sampler="heun", **SMALL)
    together, apart = [], []
    one = latents_of(pipeline_of(bundle, together), request)
    split = latents_of(pipeline_of(bundle, apart, split_guidance=True), request)
    np.testing.assert_array_equal(split, one)
    prompts = len(named(together, "unet")[0]["sample"]) // 2
    assert len(named(apart, "unet")) == prompts * len(named(together, "unet"))
    assert {len(feed["sample"]) for feed in named(apart, "unet")} == {2}


def test_split_guidance_gives_the_same_with_the_model(emoji):
    request = Request("a red apple", negative="blue", steps=2, guidance=4.0, seed=0, width=64, height=64)
    one = latents_of(emoji, request)
    emoji.split_guidance = True
    try:
        split = latents_of(emoji, request)
    finally:
        emoji.split_guidance = False
    np.testing.assert_allclose(split, one, atol=1e-4)
