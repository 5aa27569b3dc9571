r"""Emphasis: which weight each stretch of a prompt has.

`(x)` is x times 1.1, `[x]` x divided by 1.1, `(x:1.5)` x times 1.5; brackets multiply, round and square ones are
counted apart, and `\(`, `\)`, `\[`, `\]`, `\\` are the plain characters. The word BREAK ends a chunk. A bracket that is
never closed reaches to the end of the prompt, one that was never opened is text, and so is every colon but a weight's:
no text is refused but a weight that is no number.

Source: the language of AUTOMATIC1111's stable-diffusion-webui 1.10, `parse_prompt_attention` in its
modules/prompt_parser.py; the pairs are the same for every text, floats to the bit, except where `weighted` says.
"""

import re
from itertools import pairwise

import numpy as np

from latentrt.errors import RequestError
from latentrt.prompt.number import number

Part = tuple[str, float]

ROUND = 1.1
SQUARE = 1 / 1.1

# The weight is NaN, so that nothing equals this but itself: "BREAK" can be the text of another part.
BREAK: Part = ("BREAK", float("nan"))

WEIGHT = re.compile(r":\s*(?P<weight>[+-]?[.\d]+)\s*\)")
_TOKEN = re.compile(
    rf"\\(?P<escaped>[\\()\[\]]?)|(?P<open>[(\[])|{WEIGHT.pattern}|(?P<close>[)\]])|(?P<text>:|[^\\:()\[\]]+)"
)
_BREAK = re.compile(r"\bBREAK\b")


def weighted(text: str) -> list[Part]:
    r"""Returns stretches of text with their weights, in order; BREAK stands between two where the word does.

    Neighbours of equal weight are one part, and there is always at least one. A backslash that escapes nothing is left
    out. Raises RequestError for a weight that is no number or not finite, as in "(a:1.2.3)".

    Two things differ from A1111, whose mark for BREAK is a part of weight -1: there a bracket around BREAK multiplies
    the mark too and makes the word part of the prompt, here it stays a BREAK; and there "(BRE\AK:-1)" is taken for one.
    """
    texts, spans = _scanned(text)
    weights = np.ones(len(texts))
    with np.errstate(all="ignore"):  # thousands of brackets overflow to infinity, as in A1111
        for start, stop, factor in spans:
            weights[start:stop] *= factor
    parts = [BREAK if piece is None else (piece, weight) for piece, weight in zip(texts, weights.tolist(), strict=True)]
    return _merged(parts) or [("", 1.0)]


def _scanned(text: str) -> tuple[list[str | None], list[tuple[int, int, float]]]:
    """The pieces of text, None for BREAK, and (start, stop, factor) over them in the order in which they multiply."""
    texts: list[str | None] = []
    spans: list[tuple[int, int, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}
    for token in _TOKEN.finditer(text):
        found = token[0]
        if token["open"]:
            opened[found].append(len(texts))
        elif token["weight"] and opened["("]:
            spans.append((opened["("].pop(), len(texts), _weight(token["weight"], token.start("weight"))))
        elif found == ")" and opened["("]:
            spans.append((opened["("].pop(), len(texts), ROUND))
        elif found == "]" and opened["["]:
            spans.append((opened["["].pop(), len(texts), SQUARE))
        elif token["escaped"] is not None:
            texts.append(token["escaped"])
        else:
            texts += _broken(found)
    spans += [(start, len(texts), ROUND) for start in opened["("]]
    spans += [(start, len(texts), SQUARE) for start in opened["["]]
    return texts, spans


def _weight(digits: str, index: int) -> float:
    value = number(digits)
    if value is None:
        raise RequestError(
            f"prompt: the weight {digits[:40]!r} at character {index + 1} is no finite number, expected one such as 1.2"
        )
    return value


def _broken(text: str) -> list[str | None]:
    """`text` cut at each BREAK, which takes the spaces around it along."""
    first, *others = _BREAK.split(text)
    pieces: list[str | None] = [first.rstrip() if others else first]
    for other in others:
        pieces += [None, other.strip()]
    if others:
        pieces[-1] = others[-1].lstrip()
    return pieces


def _merged(parts: list[Part]) -> list[Part]:
    """Parts of equal weight in a row as one; NaN equals nothing, so a BREAK stays by itself."""
    starts = [0, *(index for index, (left, right) in enumerate(pairwise(parts), 1) if left[1] != right[1])]
    return [
        BREAK if parts[start] is BREAK else ("".join(text for text, _ in parts[start:stop]), parts[start][1])
        for start, stop in pairwise([*starts, len(parts)])
        if start < stop
    ]
