"""Parsed prompts: the weighted text of every step, and the chunks of every text."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from latentrt.errors import RequestError
from latentrt.prompt.attention import BREAK, Part, weighted
from latentrt.prompt.chunks import Chunk, chunked
from latentrt.prompt.composition import composed
from latentrt.prompt.editing import at_each_step
from latentrt.prompt.errors import refuse
from latentrt.prompt.strict import check
from latentrt.prompt.tags import blanked, first_tag, tags_of, untagged
from latentrt.prompt.tokenizer import Tokenizer

Syntax = Literal["strict", "lenient", "plain"]
SYNTAXES: tuple[Syntax, ...] = get_args(Syntax)


@dataclass(frozen=True)
class SubPrompt:
    """One of the prompts between ANDs: its weight in the guidance, and its text at each step."""

    weight: float
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Prompt:
    """A parsed prompt; `chunks` has every distinct text of its sub-prompts, in order of use.

    others: the same for text encoders with another tokenizer, by component.
    """

    sub_prompts: tuple[SubPrompt, ...]
    chunks: Mapping[str, tuple[Chunk, ...]]
    others: Mapping[str, Mapping[str, tuple[Chunk, ...]]] = field(default_factory=dict)

    @property
    def weight(self) -> float:
        """The sum of the sub-prompts' weights; at 1, and without guidance, a negative prompt has no effect."""
        return math.fsum(sub_prompt.weight for sub_prompt in self.sub_prompts)


def read(text: str, tokenizer: Tokenizer, steps: int, *, syntax: Syntax = "strict", compose: bool = True) -> Prompt:
    """Returns `text` parsed for `steps` steps.

    syntax: "strict" is A1111's language with errors for malformed text; "lenient" takes malformed text as A1111 does;
    in "plain" no character is special. compose: True if AND divides the prompt and tags are removed; False for a
    negative prompt, where A1111 encodes both as text and "strict" refuses them. Raises RequestError for an unknown
    syntax, for malformed text as `check` does, and for weights that are not finite.
    """
    if syntax not in SYNTAXES:
        raise RequestError(f"syntax: got {syntax!r}, expected one of {', '.join(SYNTAXES)}")
    if syntax == "plain":
        return prompt_of((SubPrompt(1.0, (text,) * steps),), {text: [(text, 1.0)]}, tokenizer)
    if syntax == "strict":
        check_tags(text, positive=compose)
        check(blanked(text), compose=compose)
    parts = composed(untagged(text)) if compose else [(text, 1.0)]
    sub_prompts = tuple(SubPrompt(weight, tuple(at_each_step(part, steps))) for part, weight in parts)
    texts = dict.fromkeys(text for sub_prompt in sub_prompts for text in sub_prompt.texts)
    return prompt_of(sub_prompts, {text: _finite(weighted(text)) for text in texts}, tokenizer)


def prompt_of(sub_prompts: tuple[SubPrompt, ...], parts: Mapping[str, list[Part]], tokenizer: Tokenizer) -> Prompt:
    """The prompt of these sub-prompts, with the chunks of every tokenizer. parts: weighted, of every text."""

    def cut(one: Tokenizer) -> dict[str, tuple[Chunk, ...]]:
        return {text: tuple(chunked(weights, one)) for text, weights in parts.items()}

    return Prompt(sub_prompts, cut(tokenizer), {name: cut(one) for name, one in tokenizer.others.items()})


def without_text(steps: int) -> Prompt:
    """The prompt of a model that takes none: one empty text, without tokens."""
    return Prompt((SubPrompt(1.0, ("",) * steps),), {"": ()})


def _finite(parts: list[Part]) -> list[Part]:
    if not all(part is BREAK or math.isfinite(part[1]) for part in parts):
        raise RequestError("prompt: its weights multiply to infinity; use fewer or weaker brackets")
    return parts


def check_tags(text: str, *, positive: bool) -> None:
    """Raises RequestError for a malformed tag, and for any tag in a negative prompt."""
    index = first_tag(text)
    if not positive and index is not None:
        refuse(text, index, "got a tag in a negative prompt, which A1111 takes for text; expected it in the prompt")
    tags_of(text)
