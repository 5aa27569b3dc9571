"""Properties of every prompt, tested on random ones with fixed seeds."""

import random
from collections.abc import Iterator

import pytest

import latentrt
from latentrt.errors import RequestError
from latentrt.prompt import BREAK, at_each_step, check, chunked, composed, weighted
from latentrt.prompt.tokenizer import Tokenizer

PIECES = [
    *"()[]:|\\ ,.1\n_猫",
    *("a", "b ", "BREAK", " BREAK ", "AND", " AND ", "1.5", ":1.2)", ": 3 ]", "[a:b:2]", "[c|d]", "(e)", "(e:1.3)"),
    *(":.5]", r"\(", r"\:", "(x:1.2.3)"),
]


def prompts(seed: int, count: int) -> Iterator[str]:
    draw = random.Random(seed)
    for _ in range(count):
        yield "".join(draw.choices(PIECES, k=draw.randrange(12)))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return latentrt.load("emoji").tokenizer


def test_what_passes_the_check_can_be_weighed() -> None:
    passed = 0
    for text in prompts(1, 8000):
        try:
            check(text, compose=False)
        except RequestError:
            continue
        passed += 1
        assert weighted(text)
        assert len(at_each_step(text, 3)) == 3
    assert passed > 500


def test_text_keeps_its_order_and_gains_nothing() -> None:
    for text in prompts(2, 8000):
        try:
            parts = weighted(text)
        except RequestError:
            continue
        kept = "".join(" " if part is BREAK else part[0] for part in parts)
        letters = iter(text)
        assert all(char in letters for char in kept if not char.isspace())


def test_neighbours_differ_in_weight() -> None:
    for text in prompts(3, 8000):
        try:
            parts = weighted(text)
        except RequestError:
            continue
        assert all(left[1] != right[1] for left, right in zip(parts, parts[1:], strict=False))


def test_escaping_every_bracket_and_backslash_makes_plain_text() -> None:
    for text in prompts(4, 4000):
        if "BREAK" not in text:
            escaped = "".join("\\" + char if char in "\\()[]" else char for char in text)
            assert weighted(escaped) == [(text, 1.0)]


def test_every_chunk_is_a_row(tokenizer: Tokenizer) -> None:
    for text in prompts(5, 1000):
        for part, _ in composed(text * 4):
            try:
                chunks = chunked(weighted(part), tokenizer)
            except RequestError:
                continue
            assert chunks
            assert {len(chunk.ids) for chunk in chunks} | {len(chunk.weights) for chunk in chunks} == {tokenizer.length}
