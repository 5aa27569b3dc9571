"""Errors point at a character, counted from 1; ACCEPTED is what only looks malformed."""

import re

import pytest

from latentrt.errors import RequestError
from latentrt.prompt import check

REFUSED = [
    ("(", 1, "'(' that is never closed"),
    ("[", 1, "'[' that is never closed"),
    (")", 1, "')' that was never opened"),
    ("]", 1, "']' that was never opened"),
    ("a (cat", 3, "'(' that is never closed"),
    ("a [cat", 3, "'[' that is never closed"),
    ("a cat)", 6, "')' that was never opened"),
    ("((a)", 1, "'(' that is never closed"),
    ("(a (b", 4, "'(' that is never closed"),
    ("(a))", 4, "')' that was never opened"),
    ("(a]", 3, "']' inside the '(' of character 1"),
    ("[a)", 3, "')' inside the '[' of character 1"),
    ("([)]", 3, "')' inside the '[' of character 2"),
    ("[(])", 3, "']' inside the '(' of character 2"),
    (r"\(a\) b)", 8, "')' that was never opened"),
    (r"\\(a", 3, "'(' that is never closed"),
    (r"\\\((a", 5, "'(' that is never closed"),
    (r"(a\)", 1, "'(' that is never closed"),
    ("猫(猫", 2, "'(' that is never closed"),
    ("🍎 🍎 a)", 6, "')' that was never opened"),
    ("e\u0301 (", 4, "'(' that is never closed"),
    ("a\n(b", 3, "'(' that is never closed"),
    ("(a:1.2.3)", 4, "the weight '1.2.3'"),
    ("x (a: . )", 7, "the weight '.'"),
    (r"(a\:1.2.3)", 5, "the weight '1.2.3'"),
    ("((a:1..2):1.1)", 5, "the weight '1..2'"),
    ("(a:" + "9" * 400 + ")", 4, "the weight '999"),
    ("[a:b:x]", 6, "'x' as the step"),
    ("[a:b: x ]", 7, "'x' as the step"),
    ("[a:b:]", 6, "no step of an edit"),
    ("[a:b:1.2.3]", 6, "'1.2.3' as the step"),
    ("[a:1.2.3]", 4, "'1.2.3' as the step"),
    ("[a:b:1e400]", 6, "'1e400' as the step"),
    ("[a:b:1 2]", 6, "'1 2' as the step"),
    ("[a:b:(2)]", 6, "'(2)' as the step"),
    ("[a:b:c:3]", 7, "a third ':'"),
    ("[a|b:3]", 5, "':' in brackets that also have '|'"),
    ("[a:b|c]", 5, "'|' in brackets that also have ':'"),
    ("a | [a:b:3]", 3, "'|', which makes all editing"),
    ("[a:b:3] (a|b)", 11, "'|', which makes all editing"),
    ("[a:b:3]\\", 8, r"'\\', which makes all editing"),
    ("[(x:y:z):b:3]", 2, "brackets that can only be text"),
    ("[x [[a:b]]:c:3]", 5, "brackets that can only be text"),
    ("(a AND b)", 4, "AND inside the '(' of character 1"),
    ("a AND [b AND c]", 10, "AND inside the '[' of character 7"),
    ("a AND b)", 8, "')' that was never opened"),
]

ACCEPTED = [
    *("", "a", "a, b", "(a)", "[a]", "([a])", "(a:1.2)", "(a: 1.2 )", "(a:-1)", "(re:zero)", "(a:)", "(:)", "(a:1.5x)"),
    *(
        "(a:nan)",
        "(a:b:c)",
        "((a:b:c))",
        r"\(",
        r"\)",
        r"\[a\]",
        r"(\))",
        r"\\(a)",
        "\\",
        "a:b",
        "::",
        "a | b",
        "(a|b)",
    ),
    *("[a:b]", "[a:]", "[:]", "[a:3]", "[a::3]", "[a:b:0.5]", "[a:b: .5 ]", "[a|b]", "[a|]", "[|]", "[[a|b]:c:3]"),
    *(
        "[(a:b):c:3]",
        r"[a:b:3] \|",
        r"[a\:b:c:3]",
        "a AND b :2",
        "(a) AND (b)",
        "a AND b :x",
        "a | b AND [c:3]",
        "BREAK",
    ),
    *("(a BREAK b)", "{a}", "<a:b:1>", "[x: ...]"),
]


@pytest.mark.parametrize(("text", "character", "found"), REFUSED, ids=[repr(text[:20]) for text, _, _ in REFUSED])
def test_what_is_malformed_is_pointed_at(text: str, character: int, found: str) -> None:
    with pytest.raises(RequestError) as raised:
        check(text)
    message, window, arrow = str(raised.value).split("\n")
    assert message.startswith(f"prompt: character {character}: got {found}")
    assert message.endswith("or use --syntax lenient")
    assert len(arrow) <= 65
    assert window[len(arrow) - 1] == text[character - 1]


@pytest.mark.parametrize("text", ACCEPTED)
def test_what_is_well_formed_passes(text: str) -> None:
    check(text)


def test_and_is_a_word_where_nothing_is_composed() -> None:
    check("(a AND b)", compose=False)
    with pytest.raises(RequestError, match="character 3: got"):
        check("a | AND [b:3]", compose=False)


@pytest.mark.parametrize("place", [0, 10, 29, 30, 31, 100, 970, 999])
def test_a_long_prompt_is_cut_around_the_place(place: int) -> None:
    with pytest.raises(RequestError) as raised:
        check("x" * place + ")" + "y" * (999 - place))
    message, window, arrow = str(raised.value).split("\n")
    assert f"character {place + 1}:" in message
    assert len(window) == 62
    assert window[arrow.index("^")] == ")"


def test_what_a_terminal_would_obey_is_not_shown() -> None:
    with pytest.raises(RequestError) as raised:
        check("\x1b[31m\t\n\x07(")
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", str(raised.value))
