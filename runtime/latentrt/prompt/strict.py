r"""Strict syntax: a mistake that A1111 would silently take as text is an error that points at the character.

A1111's language has no errors: an unclosed bracket weighs the rest of the prompt, and a malformed edit is encoded with
its colons. Colons and bars that can only be text are no errors: "(re:zero)" is valid.
"""

import re
from dataclasses import dataclass, field
from typing import NoReturn

from latentrt.prompt.attention import WEIGHT
from latentrt.prompt.composition import AND
from latentrt.prompt.editing import WHEN
from latentrt.prompt.errors import refuse
from latentrt.prompt.number import number

_MARK = re.compile(r"\\.|(?P<mark>[\\\[\]():|])")
_DIGITS = re.compile(r"\s*[+-]?\.*\d[.\d]*\s*")
_CLOSER = {"(": ")", "[": "]"}
_OPENER = {")": "(", "]": "["}


@dataclass
class _Open:
    """A bracket that is not closed yet: its position, and those of the colons and bars directly inside it.

    text: the position of the first pair inside it that can only be text, which keeps it from being an edit.
    """

    start: int
    marks: list[int] = field(default_factory=list)
    text: int | None = None


def check(text: str, *, compose: bool = True) -> None:
    r"""Raises RequestError, pointing at a character, for malformed text. A text that passes is valid for `weighted`.

    Malformed are: brackets left open, closed twice or crossed; a weight or a `when` that is not a finite number; an
    edit with too many colons, or with bars and colons; with `compose`, an AND inside brackets. Malformed too is
    whatever turns an edit into text: a pair inside it that is text, or a `|` outside `[a|b]` anywhere in the prompt.
    """
    start = 0
    for word in AND.finditer(text) if compose else ():
        opened = _check(text, start, word.start())
        if opened:
            what = f"AND inside {_named(text, opened[-1])}"
            _refuse(text, word.start(), what, "that bracket closed before it", "close it, write `and` for the word")
        start = word.end()
    opened = _check(text, start, len(text))
    if opened:
        index = opened[-1].start
        what = f"{text[index]!r} that is never closed"
        _refuse(text, index, what, f"{_CLOSER[text[index]]!r} after it", f"close it, write {_plain(text[index])}")


def _check(text: str, start: int, stop: int) -> list[_Open]:
    """Checks one prompt of a composition; returns the brackets that are open at its end."""
    opened: list[_Open] = []
    edited = False
    stray: int | None = None
    for found in _MARK.finditer(text, start, stop):
        mark, index = found["mark"], found.start()
        if mark in ("(", "["):
            opened.append(_Open(index))
        elif mark in (")", "]"):
            edited |= _closed(text, opened, index)
        elif opened and (mark == ":" or (mark == "|" and text[opened[-1].start] == "[")):
            opened[-1].marks.append(index)
        elif mark in ("|", "\\") and stray is None:
            stray = index
    if edited and stray is not None:
        what = f"{text[stray]!r}, which makes all editing in this prompt plain text"
        expected = "it inside [a|b] only" if text[stray] == "|" else "a character to escape after it"
        _refuse(text, stray, what, expected, rf"write \{text[stray]} for a plain one")
    return opened


def _closed(text: str, opened: list[_Open], stop: int) -> bool:
    """True if the bracket that ends at `stop` is an edit; removes it from `opened`."""
    closer = text[stop]
    if not opened:
        what = f"{closer!r} that was never opened"
        _refuse(text, stop, what, f"{_OPENER[closer]!r} before it", f"open it, write {_plain(closer)}")
    bracket = opened.pop()
    if _CLOSER[text[bracket.start]] != closer:
        what = f"{closer!r} inside {_named(text, bracket)}"
        expected = f"{_CLOSER[text[bracket.start]]!r} to close that first"
        _refuse(text, stop, what, expected, f"close it, write {_plain(closer)}")
    is_edit, is_text = (_square if closer == "]" else _round)(text, bracket, stop)
    inner = bracket.start if is_text else bracket.text
    if is_edit and bracket.text is not None:
        what = f"brackets that can only be text, which makes the edit of character {bracket.start + 1} text too"
        expected = "[from:to:when], [a|b], (text) or (text:weight)"
        _refuse(text, bracket.text, what, expected, r"write \: for a plain colon")
    if opened and opened[-1].text is None:
        opened[-1].text = inner
    return is_edit


def _round(text: str, bracket: _Open, stop: int) -> tuple[bool, bool]:
    """(True for an edit, True if an edit around this pair would be text); round brackets are never an edit."""
    colon = text.rfind(":", bracket.start, stop)  # an escaped one too: in emphasis, a backslash escapes no colon
    weight = WEIGHT.fullmatch(text, colon, stop + 1) if colon >= 0 else None
    if weight and number(weight["weight"]) is None:
        what = f"the weight {weight['weight'][:40]!r}"
        _refuse(text, weight.start("weight"), what, "a finite number such as 1.2", f"correct it, write {_plain(')')}")
    return False, len(bracket.marks) > 1


def _square(text: str, bracket: _Open, stop: int) -> tuple[bool, bool]:
    """(True for an edit, True if an edit around this pair would be text)."""
    marks = bracket.marks
    bars = [index for index in marks if text[index] == "|"]
    if not marks or len(bars) == len(marks):
        return bool(bars), False
    if bars:
        odd = next(index for index in marks if text[index] != text[marks[0]])
        what = f"{text[odd]!r} in brackets that also have {text[marks[0]]!r}"
        _refuse(text, odd, what, "[from:to:when] or [a|b]", rf"write \{text[odd]} for a plain one")
    if len(marks) > 2:
        _refuse(text, marks[2], "a third ':' in square brackets", "[from:to:when]", r"write \: for a plain colon")
    last = text[marks[-1] + 1 : stop]
    when = WHEN.fullmatch(last)
    if when and number(when["when"]) is not None:
        return True, False
    if len(marks) == 2 or when or _DIGITS.fullmatch(last):
        index = marks[-1] + 1 + len(last) - len(last.lstrip())
        what = f"{last.strip()[:40]!r} as the step of an edit" if last.strip() else "no step of an edit"
        expected = "[from:to:when] with a finite number such as 10 or 0.5"
        _refuse(text, index, what, expected, r"write \: for a plain colon")
    return False, True


def _named(text: str, bracket: _Open) -> str:
    return f"the {text[bracket.start]!r} of character {bracket.start + 1}"


def _plain(bracket: str) -> str:
    return rf"\{bracket} for a plain bracket"


def _refuse(text: str, index: int, found: str, expected: str, remedy: str) -> NoReturn:
    refuse(text, index, f"got {found}, expected {expected}; {remedy}, or use --syntax lenient")
