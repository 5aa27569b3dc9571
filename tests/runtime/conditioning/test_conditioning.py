"""What prompts become on their way to the UNet: what is encoded, how often, and which text each step sees."""

import numpy as np
import pytest

from latentrt.conditioning.text import apply_weights
from latentrt.prompt import Chunk
from tests.runtime.fake import SMALL, encode, kv_of, named, pipeline_of

CATS = "cat " * 31  # one token more than fits a chunk of 32 with its two ends


def counts(calls):
    """Calls and rows of the text encoder and of cross_kv."""
    texts, projected = named(calls, "text_encoder"), named(calls, "cross_kv")
    return (
        len(texts),
        sum(len(f["input_ids"]) for f in texts),
        len(projected),
        sum(len(f["context"]) for f in projected),
    )


def prompt_of_calls(pipeline, calls, texts):
    """For each call of the UNet, which of `texts` its last row has."""
    rows = {text: kv_of(pipeline, text) for text in texts}
    return [
        next(text for text, row in rows.items() if np.array_equal(feed["cross_kv"][-1], row))
        for feed in named(calls, "unet")
    ]


def test_each_distinct_text_is_encoded_once(fake, calls):
    fake.generate("a [red|blue|red] cat", negative="snow", steps=5, guidance=4.0, batch=2, **SMALL)
    assert counts(calls) == (1, 3, 1, 3)
    prompts = fake.tokenizer(["snow", "a red cat", "a blue cat"])
    np.testing.assert_array_equal(named(calls, "text_encoder")[0]["input_ids"], prompts)


def test_a_text_shared_by_both_prompts_is_encoded_once(fake, calls):
    fake.generate("a cat", negative="a cat", steps=2, guidance=4.0, **SMALL)
    assert counts(calls) == (1, 1, 1, 1)
    assert [len(feed["cross_kv"]) for feed in named(calls, "unet")] == [2, 2]


@pytest.mark.parametrize(
    ("prompt", "steps", "seen"),
    [
        ("a [cat:dog:0.5]", 4, "cat cat dog dog"),
        ("a [cat:dog:0.5]", 3, "cat dog dog"),
        ("a [cat:dog:1]", 4, "cat dog dog dog"),
        ("a [cat:dog:9]", 3, "cat cat cat"),
        ("a [cat:dog:0]", 2, "dog dog"),
        ("a [cat|dog]", 5, "cat dog cat dog cat"),
        ("a [cat|dog|cow]", 5, "cat dog cow cat dog"),
        ("a [cat|dog]", 1, "cat"),
    ],
)
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_each_step_sees_its_text(fake, calls, prompt, steps, seen, guidance):
    fake.generate(prompt, steps=steps, guidance=guidance, **SMALL)
    expected = [f"a {word}" for word in seen.split()]
    assert prompt_of_calls(fake, calls, dict.fromkeys(expected)) == expected


def test_both_calls_of_a_step_see_its_text(fake, calls):
    options = {"sampler": "heun", "sigmas": (9.0, 4.0, 2.0, 1.0), **SMALL}
    fake.generate("a [cat:dog:0.5]", guidance=1.0, **options)
    expected = ["a cat"] * 4 + ["a dog"] * 3
    assert prompt_of_calls(fake, calls, ["a cat", "a dog"]) == expected
    calls.clear()
    fake.generate("a [cat|dog]", guidance=4.0, **options)
    expected = ["a cat"] * 2 + ["a dog"] * 2 + ["a cat"] * 2 + ["a dog"]
    assert prompt_of_calls(fake, calls, ["a cat", "a dog"]) == expected


def test_a_negative_prompt_changes_too(fake, calls):
    fake.generate("a cow", negative="a [cat:dog:0.5]", steps=4, guidance=4.0, **SMALL)
    for step, feed in enumerate(named(calls, "unet")):
        np.testing.assert_array_equal(feed["cross_kv"][0], kv_of(fake, "a cat" if step < 2 else "a dog"))
        np.testing.assert_array_equal(feed["cross_kv"][1], kv_of(fake, "a cow"))


def test_and_does_not_divide_a_negative_prompt(fake, calls):
    fake.generate("a cow", negative="cat AND dog", steps=1, guidance=4.0, **SMALL)
    assert [len(feed["cross_kv"]) for feed in named(calls, "unet")] == [2]


@pytest.mark.parametrize("prompt", ["a (cat) [", "a [cat|dog] AND b", "x:2"])
def test_nothing_is_special_in_plain_prompts(fake, calls, prompt):
    fake.generate(prompt, negative=prompt, steps=2, guidance=4.0, syntax="plain", **SMALL)
    assert counts(calls) == (1, 1, 1, 1)
    np.testing.assert_array_equal(named(calls, "text_encoder")[0]["input_ids"], fake.tokenizer([prompt]))


@pytest.mark.parametrize("prompt", ["a cat", "a (cat:1.0)", "(a cat:1)"])
def test_weights_of_one_leave_what_the_text_encoder_said(fake, calls, prompt):
    fake.generate(prompt, negative="(snow:1.0)", steps=1, guidance=4.0, **SMALL)
    [feed], [said] = named(calls, "cross_kv"), [encode(**feed) for feed in named(calls, "text_encoder")]
    np.testing.assert_array_equal(feed["context"], said["context"].astype(np.float32))


@pytest.mark.parametrize("weight", [1.3, 0.5, 0.0, -1.0])
def test_emphasis_multiplies_the_word_and_restores_the_mean(fake, calls, weight):
    fake.generate(f"a (cat:{weight}) b", negative="snow", steps=1, guidance=4.0, **SMALL)
    [feed], [said] = named(calls, "cross_kv"), [encode(**feed) for feed in named(calls, "text_encoder")]
    negative, positive = said["context"].astype(np.float32)
    assert len(fake.tokenizer.ids("cat")) == 1
    expected = positive.astype(np.float64)
    expected[2] *= weight  # BOS, a, cat
    expected *= positive.mean(dtype=np.float64) / expected.mean()
    np.testing.assert_array_equal(feed["context"][0], negative)
    np.testing.assert_allclose(feed["context"][1], expected, rtol=1e-5)


def test_each_chunk_keeps_its_own_mean():
    context = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32) + 1
    weights = [(1.0, 1.5, 1.0, 1.0), (1.0,) * 4, (1.0, 0.2, 3.0, 1.0)]
    before = context.copy()
    got = apply_weights(context, [Chunk((0,) * 4, row) for row in weights])
    assert got.dtype == np.float32
    np.testing.assert_array_equal(context, before)
    np.testing.assert_array_equal(got[1], context[1])
    np.testing.assert_allclose(got.mean((1, 2)), context.mean((1, 2)), rtol=1e-5)
    for chunk, original, row in zip(got, context, weights, strict=True):
        ratio = chunk / original / np.array(row, np.float32)[:, None]
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)


def test_a_chunk_that_sums_to_nothing_is_only_multiplied():
    context = np.array([[[1.0, 2.0], [3.0, 4.0]]], np.float32)
    got = apply_weights(context, [Chunk((0, 0), (0.0, 0.0))])
    np.testing.assert_array_equal(got, np.zeros_like(context))


def test_emphasis_matters_to_the_picture(emoji):
    options = {"steps": 1, "seed": 0, "width": 64, "height": 64}
    prompts = ["a red apple", "a (red:1.4) apple", "a (red:1.0) apple"]
    plain, strong, one = (emoji.generate(prompt, **options).images[0].tobytes() for prompt in prompts)
    assert plain == one != strong


def test_a_long_prompt_is_encoded_by_chunks_that_attend_as_one(fake, calls):
    words = [["cat", "dog", "cow"][index % 3] for index in range(70)]
    fake.generate(" ".join(words), steps=2, guidance=1.0, batch=2, **SMALL)
    [feed] = named(calls, "text_encoder")
    chunks = [" ".join(words[start : start + 30]) for start in (0, 30, 60)]
    np.testing.assert_array_equal(feed["input_ids"], fake.tokenizer(chunks))
    for feed in named(calls, "unet"):
        expected = np.concatenate([kv_of(fake, chunk) for chunk in chunks])
        np.testing.assert_array_equal(feed["cross_kv"], np.stack([expected] * 2))


@pytest.mark.parametrize("split", [False, True])
def test_prompts_of_unequal_length_are_asked_about_apart(bundle, calls, split):
    pipeline = pipeline_of(bundle, calls, split_guidance=split)
    pipeline.generate(CATS, negative="snow", steps=2, guidance=4.0, batch=2, **SMALL)
    shapes = [feed["cross_kv"].shape[:2] for feed in named(calls, "unet")]
    assert shapes == [(2, 32), (2, 64)] * 2
    np.testing.assert_array_equal(named(calls, "unet")[0]["cross_kv"][0], kv_of(pipeline, "snow"))


def test_a_long_negative_prompt_too(fake, calls):
    fake.generate("snow", negative=CATS, steps=1, guidance=4.0, **SMALL)
    assert [feed["cross_kv"].shape[:2] for feed in named(calls, "unet")] == [(1, 64), (1, 32)]


def test_prompts_of_equal_length_are_asked_about_together(fake, calls):
    fake.generate(f"{CATS} BREAK dog", negative=CATS + "cat " * 30, steps=1, guidance=4.0, **SMALL)
    assert [feed["cross_kv"].shape[:2] for feed in named(calls, "unet")] == [(2, 96)]


def test_composed_prompts_are_padded_to_the_longest_with_their_last_row(fake, calls):
    fake.generate(f"{CATS}AND dog", negative="snow", steps=1, guidance=4.0, batch=2, **SMALL)
    first, second = named(calls, "unet")
    assert (first["cross_kv"].shape[:2], second["cross_kv"].shape[:2]) == ((2, 32), (4, 64))
    dog = kv_of(fake, " dog")
    for row in second["cross_kv"][2:]:
        np.testing.assert_array_equal(row[:32], dog)
        np.testing.assert_array_equal(row[32:], np.stack([dog[-1]] * 32))


def test_the_length_may_change_from_step_to_step(fake, calls):
    fake.generate(f"[dog:{CATS.strip()}:0.5]", negative="snow", steps=4, guidance=4.0, **SMALL)
    shapes = [feed["cross_kv"].shape[:2] for feed in named(calls, "unet")]
    assert shapes == [(2, 32), (2, 32), (1, 32), (1, 64), (1, 32), (1, 64)]


def test_break_starts_a_chunk(fake, calls):
    fake.generate("cat BREAK dog", steps=1, guidance=1.0, **SMALL)
    np.testing.assert_array_equal(named(calls, "text_encoder")[0]["input_ids"], fake.tokenizer(["cat", "dog"]))


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_the_text_encoder_is_told_which_layer(fake, calls, layer):
    fake.generate("a cat", steps=1, guidance=1.0, clip_skip=layer, **SMALL)
    [feed] = named(calls, "text_encoder")
    assert feed["clip_skip"].tolist() == [layer] and feed["clip_skip"].dtype == np.int64
    np.testing.assert_array_equal(named(calls, "unet")[0]["cross_kv"][0], kv_of(fake, "a cat", layer))


def test_every_layer_gives_another_picture(emoji):
    options = {"steps": 1, "seed": 0, "width": 64, "height": 64}
    pictures = {emoji.generate("a red apple", clip_skip=skip, **options).images[0].tobytes() for skip in (1, 2, 3)}
    assert len(pictures) == 3
