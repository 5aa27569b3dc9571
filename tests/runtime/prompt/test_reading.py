import pytest

import latentrt
from latentrt.errors import RequestError
from latentrt.prompt import SYNTAXES, SubPrompt, chunked, read, weighted
from latentrt.prompt.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return latentrt.load("emoji").tokenizer


def test_a_plain_prompt_is_one_text_and_one_chunk(tokenizer: Tokenizer) -> None:
    for syntax in SYNTAXES:
        prompt = read("a red apple", tokenizer, 3, syntax=syntax)
        assert prompt.sub_prompts == (SubPrompt(1.0, ("a red apple",) * 3),)
        assert prompt.chunks == {"a red apple": tuple(chunked([("a red apple", 1.0)], tokenizer))}


def test_every_distinct_text_is_read_once(tokenizer: Tokenizer) -> None:
    prompt = read("a [red|green] apple AND a (pear) :0.5 AND [a:b:2]", tokenizer, 4)
    assert [sub_prompt.weight for sub_prompt in prompt.sub_prompts] == [1.0, 0.5, 1.0]
    assert prompt.sub_prompts[0].texts == ("a red apple", "a green apple") * 2
    assert list(prompt.chunks) == ["a red apple", "a green apple", " a (pear)", " a", " b"]
    assert prompt.chunks[" a (pear)"] == tuple(chunked(weighted(" a (pear)"), tokenizer))


def test_a_negative_prompt_is_never_divided(tokenizer: Tokenizer) -> None:
    prompt = read("(a AND b :2)", tokenizer, 2, compose=False)
    assert prompt.sub_prompts == (SubPrompt(1.0, ("(a AND b :2)",) * 2),)


def test_only_strict_refuses_what_is_malformed(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="character 3: got"):
        read("a (cat", tokenizer, 1)
    (chunk,) = read("a (cat", tokenizer, 1, syntax="lenient").chunks["a (cat"]
    assert 1.1 in chunk.weights
    (chunk,) = read("a (cat", tokenizer, 1, syntax="plain").chunks["a (cat"]
    assert set(chunk.weights) == {1.0}


def test_nothing_is_special_in_plain(tokenizer: Tokenizer) -> None:
    text = "(a) [b|c] BREAK [d:e:2] AND f :2"
    prompt = read(text, tokenizer, 3, syntax="plain")
    assert prompt.sub_prompts == (SubPrompt(1.0, (text,) * 3),)
    assert list(prompt.chunks) == [text]


def test_weights_that_run_out_of_floats_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="weights multiply"):
        read("(" * 8000 + "a" + ")" * 8000, tokenizer, 1)


def test_an_unknown_syntax_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="syntax: got 'loose', expected one of strict, lenient, plain"):
        read("a", tokenizer, 1, syntax="loose")  # type: ignore[arg-type]
