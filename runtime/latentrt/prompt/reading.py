"""A prompt as a run needs it: which text holds at which step, with which weight, and the chunks of every text."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
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
class Guide:
    """One of the prompts between ANDs: how much it guides, and its text at each step."""

    weight: float
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Prompt:
    """A parsed prompt; `chunks` has every distinct text of its guides, in order of use."""

    guides: tuple[Guide, ...]
    chunks: Mapping[str, tuple[Chunk, ...]]

    @property
    def weight(self) -> float:
        """The guides' weights together; at 1, and without guidance, a negative prompt has no say."""
        return math.fsum(guide.weight for guide in self.guides)


def read(text: str, tokenizer: Tokenizer, steps: int, *, syntax: Syntax = "strict", compose: bool = True) -> Prompt:
    """Returns the prompt that `text` means over `steps` steps.

    syntax: "strict" is A1111's language, and what is malformed in it an error; "lenient" takes that as A1111 does; in
    "plain" nothing is special. compose: whether AND divides and tags are taken out; they are not in a negative prompt,
    where A1111 encodes them as text and "strict" refuses them. Raises RequestError for an unknown syntax, for what
    `check` finds, and for weights that are not finite.
    """
    if syntax not in SYNTAXES:
        raise RequestError(f"syntax: got {syntax!r}, expected one of {', '.join(SYNTAXES)}")
    if syntax == "plain":
        return Prompt((Guide(1.0, (text,) * steps),), {text: tuple(chunked([(text, 1.0)], tokenizer))})
    if syntax == "strict":
        check_tags(text, positive=compose)
        check(blanked(text), compose=compose)
    parts = composed(untagged(text)) if compose else [(text, 1.0)]
    guides = tuple(Guide(weight, tuple(at_each_step(part, steps))) for part, weight in parts)
    texts = dict.fromkeys(text for guide in guides for text in guide.texts)
    return Prompt(guides, {text: tuple(chunked(_finite(weighted(text)), tokenizer)) for text in texts})


def without_text(steps: int) -> Prompt:
    """The prompt of a model that takes none: one empty text, without tokens."""
    return Prompt((Guide(1.0, ("",) * steps),), {"": ()})


def _finite(parts: list[Part]) -> list[Part]:
    if not all(part is BREAK or math.isfinite(part[1]) for part in parts):
        raise RequestError("prompt: its weights multiply to more than a float holds; use fewer or weaker brackets")
    return parts


def check_tags(text: str, *, positive: bool) -> None:
    """Raises RequestError for a malformed tag, and for any in a negative prompt."""
    place = first_tag(text)
    if not positive and place is not None:
        refuse(text, place, "got a tag in a negative prompt, which A1111 takes for text; expected it in the prompt")
    tags_of(text)
