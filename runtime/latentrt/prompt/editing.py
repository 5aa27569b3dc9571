r"""Editing: a prompt that changes from step to step.

`[from:to:when]`, `[to:when]` and `[from::when]` switch after a step; `[a|b|c]` alternates. Both nest, inside emphasis
too; all other text is left for `attention`. The text is cut into tokens once, and edits are found as spans of tokens
with one stack and no recursion. A step's prompt is the tokens without those that the edits skip.

Brackets are an edit only if all inside is well formed: brackets in pairs, and colons only in `(text:text)` and in other
edits. Anything else is text. A `|` outside an alternation, or a backslash at the end of a line, makes the whole prompt
text.

Source: the language of AUTOMATIC1111's stable-diffusion-webui 1.10, the grammar and `get_schedule` in
modules/prompt_parser.py. That grammar is ambiguous if an unpaired bracket or colon touches an edit, as in "[a:b:2](":
its parser reads it as an edit or as text, even from run to run. Here it is always an edit.
"""

import re
from dataclasses import dataclass, field

from latentrt.errors import RequestError
from latentrt.prompt.number import number

_TOKEN = re.compile(r"(?:[^\\\[\]():|]|\\.)+|[\[\]():|]")
WHEN = re.compile(r"\s*(?P<when>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")

Span = tuple[int, int]


@dataclass(frozen=True)
class Edit:
    """An edit: tokens `start` to `stop`, brackets included, which each step replaces with one of the options.

    options: spans of tokens. when: as written, for a switch between two options; None for an alternation.
    """

    start: int
    stop: int
    options: tuple[Span, ...]
    when: str | None

    def option(self, step: int, steps: int) -> Span:
        """The option for `step`, counted from 1."""
        if self.when is None:
            return self.options[(step - 1) % len(self.options)]
        return self.options[0 if step <= step_of(self.when, steps) else 1]


@dataclass
class _Open:
    """A bracket that is not closed yet, and the positions of the separators directly inside it so far."""

    start: int
    marks: list[int] = field(default_factory=list)


def at_each_step(text: str, steps: int) -> list[str]:
    """Returns the prompt of each step: `steps` texts, few of them distinct.

    Step n, counted from 1, has "from" while n <= when. `when` with a point is a fraction of the steps; without one, a
    step, rounded down and at most `steps`. An alternation takes its options in turn, the first at step 1. Raises
    RequestError for a `when` too large for a float, which is an error in A1111 too.
    """
    tokens = tokens_of(text)
    edits = edits_of(tokens)
    if not edits:
        return [text] * steps
    return [_at_step(tokens, edits, step, steps) for step in range(1, steps + 1)]


def _at_step(tokens: list[str], edits: list[Edit], step: int, steps: int) -> str:
    jumps = {}
    for edit in edits:
        first, end = edit.option(step, steps)
        jumps[edit.start] = first
        jumps[end] = edit.stop
    texts = []
    index = 0
    while index < len(tokens):
        if index in jumps:
            index = jumps[index]
        else:
            texts.append(tokens[index])
            index += 1
    return "".join(texts)


def step_of(when: str, steps: int) -> int:
    """Returns the last step of "from" for a `when` that WHEN matches. Raises RequestError if it is not finite."""
    value = number(when)
    if value is None:
        raise RequestError(f"prompt: editing at step {when[:40]!r}, expected a finite number such as 10 or 0.5")
    last = value * steps if "." in when else value
    return int(max(-1.0, min(last, float(steps))))


def tokens_of(text: str) -> list[str]:
    """Returns the tokens: brackets, colons, bars, and the text between; nothing if the prompt can have no edit."""
    tokens = _TOKEN.findall(text)
    return tokens if sum(map(len, tokens)) == len(text) else []


def edits_of(tokens: list[str]) -> list[Edit]:
    """Returns every edit among the tokens, inner ones first; nothing if a bar belongs to no edit."""
    edits: list[Edit] = []
    opened: list[_Open] = []
    for index, token in enumerate(tokens):
        if token in ("(", "["):
            opened.append(_Open(index))
        elif token in (":", "|") and opened:
            opened[-1].marks.append(index)
        elif token in (")", "]") and opened and _closes(tokens, opened[-1], index):
            edit = _edit(tokens, opened.pop(), index)
            edits += [edit] if edit else []
        elif token in (")", "]", "|"):
            # This is text, so every open bracket around it is text too, and a bar inside cannot be an alternation's.
            if token == "|" or _bars(tokens, opened):
                return []
            opened.clear()
    return [] if _bars(tokens, opened) else edits


def _closes(tokens: list[str], bracket: _Open, stop: int) -> bool:
    """True if the bracket and the one at `stop` are a pair: emphasis or an edit."""
    marks = [tokens[index] for index in bracket.marks]
    if tokens[bracket.start] == "(":
        return tokens[stop] == ")" and marks in ([], [":"])
    if tokens[stop] == ")":
        return False
    return set(marks) <= {"|"} or (marks in ([":"], [":", ":"]) and _when(tokens, bracket, stop) is not None)


def _edit(tokens: list[str], bracket: _Open, stop: int) -> Edit | None:
    """The edit in a pair of brackets; None for emphasis."""
    start, marks = bracket.start, bracket.marks
    if tokens[start] == "(" or not marks:
        return None
    if tokens[marks[0]] == "|":
        firsts = [start, *marks]
        options = tuple((first + 1, end) for first, end in zip(firsts, [*marks, stop], strict=True))
        return Edit(start, stop + 1, options, None)
    to = (marks[-2] if len(marks) == 2 else start) + 1, marks[-1]
    since = (start + 1, marks[0]) if len(marks) == 2 else (marks[0], marks[0])
    return Edit(start, stop + 1, (since, to), _when(tokens, bracket, stop))


def _when(tokens: list[str], bracket: _Open, stop: int) -> str | None:
    """The number after the last colon, if there is one."""
    last = tokens[bracket.marks[-1] + 1 : stop]
    found = WHEN.fullmatch(last[0]) if len(last) == 1 else None
    return found["when"] if found else None


def _bars(tokens: list[str], opened: list[_Open]) -> bool:
    return any(tokens[index] == "|" for bracket in opened for index in bracket.marks)
