"""Texts that several text encoders read, each with a tokenizer of its own or with one that they share."""

from dataclasses import replace

import numpy as np
import pytest

from latentrt.conditioning.text import encode
from latentrt.pipeline.load import load_tokenizer
from latentrt.prompt import read

WIDTH = 8


class Graphs:
    """A model's graphs: encoders that say what they are asked, and one that passes its context on."""

    def __init__(self, width):
        self.width, self.calls = width, []

    def __call__(self, name, **feeds):
        self.calls.append((name, {key: one.shape for key, one in feeds.items()}))
        if name == "cross_kv":
            return {"cross_kv": feeds["context"]}
        context = np.repeat(feeds["input_ids"][:, :, None].astype(np.float32) + 1, self.width, -1)
        return {"context": context}


@pytest.fixture
def manifest(bundle):
    """The built-in model's, whose context is WIDTH wide and which is passed on as it is."""
    found = bundle.manifest
    hoisted = found.components["cross_kv"]
    (spec,) = hoisted.inputs
    narrow = replace(hoisted, inputs=(replace(spec, shape=(*spec.shape[:2], WIDTH)),))
    second = found.components["text_encoder"]
    return replace(found, components={**found.components, "cross_kv": narrow, "text_encoder_2": second})


@pytest.fixture
def tokenizer(bundle):
    """Its tokenizer."""
    return load_tokenizer(bundle)


def texts_of(manifest, tokenizer, width=WIDTH, **text):
    """What becomes of two texts, and the calls that were made."""
    graphs, spec = Graphs(width), replace(manifest.text, **text)
    prompt = read("a red apple AND a pear", tokenizer, 1)
    found = encode(graphs, replace(manifest, text=spec), [prompt], 1)
    return [one.sequences["cross_kv"] for one in found.values()], graphs.calls


def test_an_encoder_that_is_missing_is_zeros(manifest, tokenizer):
    texts, calls = texts_of(manifest, tokenizer, missing=3)
    plain, _ = texts_of(manifest, tokenizer)
    assert [one.shape for one in texts] == [(1, tokenizer.length + 3, WIDTH)] * 2
    for one, expected in zip(texts, plain, strict=True):
        assert np.array_equal(one[:, :-3], expected) and not one[:, -3:].any() and expected.all()
    assert [name for name, _ in calls] == ["text_encoder", "cross_kv", "cross_kv"]


def test_a_narrow_context_is_filled_with_zeros(manifest, tokenizer):
    texts, _ = texts_of(manifest, tokenizer, width=5)
    assert all(one.shape[-1] == WIDTH and one[..., :5].all() and not one[..., 5:].any() for one in texts)


def test_another_tokenizer_adds_rows_of_its_own(manifest, tokenizer):
    both = replace(tokenizer, others={"text_encoder_2": replace(tokenizer, length=5)})
    texts, calls = texts_of(manifest, both, encoders=("text_encoder", "text_encoder_2"))
    plain, _ = texts_of(manifest, tokenizer)
    assert [one.shape[1] for one in texts] == [tokenizer.length + 5] * 2
    for one, expected in zip(texts, plain, strict=True):
        assert np.array_equal(one[:, : tokenizer.length], expected)
        assert one[0, tokenizer.length, 0] == tokenizer.bos + 1
    asked = {name: shapes["input_ids"] for name, shapes in calls if name.startswith("text_encoder")}
    assert asked == {"text_encoder": (2, tokenizer.length), "text_encoder_2": (2, 5)}


def test_a_text_that_fills_some_rows_of_one_tokenizer_may_need_one_of_another(tokenizer):
    text = "a red apple and a pear " * 3
    short = replace(tokenizer, length=5)
    prompt = read(text, replace(tokenizer, others={"text_encoder_2": short}), 1)
    assert len(prompt.chunks[text.rstrip()]) == 1 and len(prompt.others["text_encoder_2"][text.rstrip()]) > 3
    alone = read(text, short, 1).chunks[text.rstrip()]
    assert prompt.others["text_encoder_2"][text.rstrip()] == alone
