"""Weights, from the documented rules; prompt_cases.json has them as [text, [[text, weight] or null for BREAK, ...]]."""

import json
import time
from pathlib import Path

import pytest

from latentrt.errors import RequestError
from latentrt.prompt import BREAK, weighted

CASES = json.loads((Path(__file__).parent / "prompt_cases.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[repr(text) for text, _ in CASES])
def test_weights_are_those_of_the_rules(text: str, expected: list[list[object] | None]) -> None:
    assert weighted(text) == [BREAK if part is None else tuple(part) for part in expected]


def test_there_are_two_hundred_cases() -> None:
    assert len({text for text, _ in CASES}) == len(CASES) >= 200


def test_a_word_is_never_taken_for_the_mark() -> None:
    assert BREAK not in weighted(r"(BRE\AK:-1)")
    assert weighted(r"a BREAK b")[1] is BREAK


@pytest.mark.parametrize("text", ["(a:1.2.3)", "(a:.)", "(a:..)", "x (a (b:1..2))", f"(a:{'9' * 400})", "(wait: ...)"])
def test_a_weight_that_is_no_finite_number_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"got the weight .* at character \d+, expected a finite number"):
        weighted(text)


@pytest.mark.parametrize("text", ["a:1.2.3)", "[a:1.2.3]", "a:.)", "(a:1.2.3"])
def test_what_only_looks_like_a_weight_is_text(text: str) -> None:
    assert "".join(part for part, _ in weighted(text)).endswith(text.strip("([]"))


@pytest.mark.parametrize(
    "text", ["(a" * 10000 + ":1.1)" * 10000, "(" * 20000, "[a" * 20000, " " * 20000, "BREAK " * 4000]
)
def test_a_long_prompt_takes_no_long_time(text: str) -> None:
    start = time.process_time()
    weighted(text)
    assert time.process_time() - start < 5
