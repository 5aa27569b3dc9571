"""The text of each of five steps: `expected` has one text for all, or one for each stretch of equal ones."""

import time
from itertools import groupby

import pytest

from latentrt.errors import RequestError
from latentrt.prompt import at_each_step

SWITCHES = [
    ("[a:b:2]", [(2, "a"), (3, "b")]),
    ("x [a:b:2] y", [(2, "x a y"), (3, "x b y")]),
    ("x [b:2] y", [(2, "x  y"), (3, "x b y")]),
    ("x [a::2] y", [(2, "x a y"), (3, "x  y")]),
    ("[:b:2]", [(2, ""), (3, "b")]),
    ("[:2]", [(5, "")]),
    ("[::2]", [(5, "")]),
    ("[a:b:0.4]", [(2, "a"), (3, "b")]),
    ("[a:b:.5]", [(2, "a"), (3, "b")]),
    ("[a:b:1]", [(1, "a"), (4, "b")]),
    ("[a:b:1.0]", [(5, "a")]),
    ("[a:b:1.]", [(5, "a")]),
    ("[a:b:0]", [(5, "b")]),
    ("[a:b:0.1]", [(5, "b")]),
    ("[a:b:-3]", [(5, "b")]),
    ("[a:b:+3]", [(3, "a"), (2, "b")]),
    ("[a:b:5]", [(5, "a")]),
    ("[a:b:99]", [(5, "a")]),
    ("[a:b:2e0]", [(2, "a"), (3, "b")]),
    ("[a:b:2.0e-1]", [(1, "a"), (4, "b")]),
    ("[a:b: 2 ]", [(2, "a"), (3, "b")]),
    ("[a : b :\n2]", [(2, "a "), (3, " b ")]),
    ("[a:3:2]", [(2, "a"), (3, "3")]),
    ("[2:3:2]", [(2, "2"), (3, "3")]),
    ("[a:[b:c:3]:1]", [(1, "a"), (2, "b"), (2, "c")]),
    ("[[a:b:1]:c:3]", [(1, "a"), (2, "b"), (2, "c")]),
    ("[[a]:2]", [(2, ""), (3, "[a]")]),
    ("[(a:2):3]", [(3, ""), (2, "(a:2)")]),
    ("[(a:b):c:3]", [(3, "(a:b)"), (2, "c")]),
    ("([a:b:2])", [(2, "(a)"), (3, "(b)")]),
    ("([a:b:2]:1.2)", [(2, "(a:1.2)"), (3, "(b:1.2)")]),
    ("(a:[1.2:1.4:2])", [(2, "(a:1.2)"), (3, "(a:1.4)")]),
    ("[[a:b:2]]", [(2, "[a]"), (3, "[b]")]),
    ("[a:b:2][c:d:3]", [(2, "ac"), (1, "bc"), (2, "bd")]),
    (r"[\[a\]:b:2]", [(2, r"\[a\]"), (3, "b")]),
    (r"[a\:b:c:2]", [(2, r"a\:b"), (3, "c")]),
    (r"\[[a:b:2]\]", [(2, r"\[a\]"), (3, r"\[b\]")]),
    ("style: [a:b:2]", [(2, "style: a"), (3, "style: b")]),
    ("(unclosed [a:b:2]", [(2, "(unclosed a"), (3, "(unclosed b")]),
    ("[x [a:b:2] y", [(2, "[x a y"), (3, "[x b y")]),
    ("x] [a:b:2]", [(2, "x] a"), (3, "x] b")]),
    ("[x:[a:b:2]", [(2, "[x:a"), (3, "[x:b")]),
]

TURNS = [
    ("[a|b]", ["a", "b", "a", "b", "a"]),
    ("[a|b|c]", ["a", "b", "c", "a", "b"]),
    ("[a|]x", ["ax", "x", "ax", "x", "ax"]),
    ("[|a]", ["", "a", "", "a", ""]),
    ("[|]", [""] * 5),
    ("[a||b]", ["a", "", "b", "a", ""]),
    ("[a|b][c|d|e]", ["ac", "bd", "ae", "bc", "ad"]),
    ("[[a|b]|c]", ["a", "c", "a", "c", "a"]),
    ("[a|[b:c:2]]", ["a", "b", "a", "c", "a"]),
    ("[[a|b]:c:2]", ["a", "b", "c", "c", "c"]),
    ("([a|b]:1.3)", ["(a:1.3)", "(b:1.3)", "(a:1.3)", "(b:1.3)", "(a:1.3)"]),
    ("[a|(b:1.1)]", ["a", "(b:1.1)", "a", "(b:1.1)", "a"]),
    (r"[a\|b|c]", [r"a\|b", "c", r"a\|b", "c", r"a\|b"]),
]

TEXTS = [
    *("", "a", "(a:1.2) [b]", "[a:b]", "[a:b:c]", "[a:b:]", "[a:b:c:2]", "[a:b:1.2.3]", "[a:b:2 3]", "[a:b:2,]"),
    *("[a:b:(2)]", "[a:b:2", "a:b:2]", "[a:b:2)", "(a:b:2)", r"\[a:b:2]", r"[a:b\:2]", "[a:b:٣]", "[(x:y:z):b:2]"),
    *("[[a:b]:c:2]", "[(a]:b:2)", "a | [a:b:2]", "(a|b) [a:b:2]", "[a|b:c] [a:b:2]", "[a:b:2] [a|b", "[a:b:2]\\"),
    *("[a:b:2] \\\n", "a | b", "[a|b"),
]


@pytest.mark.parametrize(("text", "expected"), SWITCHES)
def test_switches(text: str, expected: list[tuple[int, str]]) -> None:
    assert [(len(list(run)), held) for held, run in groupby(at_each_step(text, 5))] == expected


@pytest.mark.parametrize(("text", "expected"), TURNS)
def test_turns(text: str, expected: list[str]) -> None:
    assert at_each_step(text, 5) == expected


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_no_edit_stays_as_it_is(text: str) -> None:
    assert at_each_step(text, 5) == [text] * 5


@pytest.mark.parametrize(("steps", "switch"), [(1, 0), (2, 1), (3, 1), (4, 2), (20, 10), (51, 25)])
def test_a_fraction_is_one_of_the_steps(steps: int, switch: int) -> None:
    assert at_each_step("[a:b:0.5]", steps) == ["a"] * switch + ["b"] * (steps - switch)


def test_a_step_that_is_not_finite_is_refused() -> None:
    with pytest.raises(RequestError, match="editing at step '1e400', expected a finite number"):
        at_each_step("[a:b:1e400]", 5)
    assert at_each_step("[a:b:1.0e308]", 50) == ["a"] * 50


@pytest.mark.parametrize(
    "text", ["(" * 20000, "[a:" * 5000 + ":1]" * 5000, "[a|" * 5000 + "]" * 5000, f"[a:{'1' * 20000}x]", "[|" * 10000]
)
def test_a_long_prompt_takes_no_long_time(text: str) -> None:
    start = time.process_time()
    at_each_step(text, 20)
    assert time.process_time() - start < 5
