r"""Emphasis: the weight of each part of a prompt.

`(x)` weighs x by 1.1, `[x]` by 1 / 1.1, `(x:1.5)` by 1.5. Nested brackets multiply; round and square ones are matched
separately. `\(`, `\)`, `\[`, `\]`, `\\` are the plain characters. The word BREAK ends a chunk. An unclosed bracket
reaches to the end of the prompt; an unopened one is text, and so is every colon without a weight. Only a weight that is
not a number is an error.

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

# The weight is NaN, so that this part equals no other: "BREAK" can be the text of another part.
BREAK: Part = ("BREAK", float("nan"))

WEIGHT = re.compile(r":\s*(?P<weight>[+-]?[.\d]+)\s*\)")
_TOKEN = re.compile(
    rf"\\(?P<escaped>[\\()\[\]]?)|(?P<open>[(\[])|{WEIGHT.pattern}|(?P<close>[)\]])|(?P<text>:|[^\\:()\[\]]+)"
)
_BREAK = re.compile(r"\bBREAK\b")


def weighted(text: str) -> list[Part]:
    r"""Returns the parts of a text with their weights, in order, with BREAK at each such word.

    Neighbours of equal weight are one part; there is at least one part. A backslash that escapes nothing is dropped.
    Raises RequestError for a weight that is not a finite number, as in "(a:1.2.3)".

    Two differences from A1111, which marks BREAK by a part of weight -1: a bracket around BREAK turns the word into
    text there, and here it stays a BREAK; "(BRE\AK:-1)" is a BREAK there, and here it is text.
    """
    texts, spans = _scanned(text)
    weights = np.ones(len(texts))
    with np.errstate(all="ignore"):  # thousands of brackets overflow to infinity, as in A1111
        for start, stop, factor in spans:
            weights[start:stop] *= factor
    parts = [BREAK if piece is None else (piece, weight) for piece, weight in zip(texts, weights.tolist(), strict=True)]
    return _merged(parts) or [("", 1.0)]


def _scanned(text: str) -> tuple[list[str | None], list[tuple[int, int, float]]]:
    """The pieces of text, None for BREAK, and (start, stop, factor) of the brackets around pieces, innermost first."""
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
            f"prompt: got the weight {digits[:40]!r} at character {index + 1}, expected a finite number such as 1.2"
        )
    return value


def _broken(text: str) -> list[str | None]:
    """`text` cut at each BREAK, with None for it; the spaces around it are dropped."""
    first, *others = _BREAK.split(text)
    pieces: list[str | None] = [first.rstrip() if others else first]
    for other in others:
        pieces += [None, other.strip()]
    if others:
        pieces[-1] = others[-1].lstrip()
    return pieces


def _merged(parts: list[Part]) -> list[Part]:
    """The parts, with neighbours of equal weight joined; NaN equals nothing, so a BREAK stays by itself."""
    starts = [0, *(index for index, (left, right) in enumerate(pairwise(parts), 1) if left[1] != right[1])]
    return [
        BREAK if parts[start] is BREAK else ("".join(text for text, _ in parts[start:stop]), parts[start][1])
        for start, stop in pairwise([*starts, len(parts)])
        if start < stop
    ]
