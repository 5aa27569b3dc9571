"""The prompts of a run by step: which text conditions each row of a call of the denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from latentrt.conditioning.prompt_blend import interpolated_conditioning
from latentrt.conditioning.text import TextConditioning, zero_conditioning
from latentrt.prompt import Prompt
from latentrt.tensors import Array

# A text by its place in `Conditioning.texts`, and whether it stands in the negative prompt.
TextKey = tuple[int, bool]


class Row(NamedTuple):
    """One row of a call: its text, the length to which its sequences are brought, and its part.

    image_dropped: whether zeros stand for the extra channels, as in InstructPix2Pix's second guidance.
    """

    text: int
    tokens: int
    negative: bool = False
    image_dropped: bool = False

    @property
    def key(self) -> TextKey:
        """The text and its part."""
        return self.text, self.negative


@dataclass(frozen=True)
class Conditioning:
    """The prompts of a run; texts are named by their place in `texts`.

    positive: the weight and the text at each step of every prompt between ANDs. They are made as long as the longest by
    repeating their last row, as AUTOMATIC1111 does. negative: the text at each step; () where there is no negative
    prompt. zero_negative: the negative conditioning is zeros, which may have any length.
    """

    texts: tuple[TextConditioning, ...]
    positive: tuple[tuple[float, tuple[int, ...]], ...]
    negative: tuple[int, ...] = ()
    zero_negative: bool = False

    def rows(self, step: int) -> tuple[Row | None, tuple[tuple[float, Row], ...]]:
        """The negative row of a step, and the weight and row of each prompt between ANDs."""
        longest = max(self.texts[texts[step]].tokens for _, texts in self.positive)
        positive = tuple((weight, Row(texts[step], longest)) for weight, texts in self.positive)
        if not self.negative:
            return None, positive
        text = self.negative[step]
        return Row(text, longest if self.zero_negative else self.texts[text].tokens, negative=True), positive

    def used(self) -> list[TextKey]:
        """Every text that a call may have, in the order of first use, positive ones first."""
        positive = ((text, False) for _, texts in self.positive for text in texts)
        return [*dict.fromkeys((*positive, *((text, True) for text in self.negative)))]

    def sequence(self, row: Row, name: str) -> Array:
        """A sequence of the row's text, (1, tokens, width), as long as the row says."""
        return self.texts[row.text].resized(name, row.tokens)

    def vector(self, key: TextKey, name: str) -> Array:
        """A vector of a text, (1, width)."""
        return self.texts[key[0]].vectors[name]


def conditioning_of(
    texts: Mapping[str, TextConditioning],
    positive: Prompt,
    negative: Prompt | None,
    blend: tuple[Prompt, float] | None = None,
) -> Conditioning:
    """Returns the conditioning of a run's prompts.

    negative: None for none. blend: a second prompt and the share of it, 0 to
    1, in the interpolation between both.
    """
    places = {text: place for place, text in enumerate(texts)}
    known = [*texts.values()]
    guides = [(guide.weight, tuple(places[text] for text in guide.texts)) for guide in positive.sub_prompts]
    if blend is not None:
        other, share = blend
        pairs = [*zip(guides[0][1], (places[text] for text in other.sub_prompts[0].texts), strict=True)]
        blends = {pair: len(known) + place for place, pair in enumerate(dict.fromkeys(pairs))}
        guides = [(1.0, tuple(blends[pair] for pair in pairs))]
        known += [interpolated_conditioning(known[a], known[b], share) for a, b in blends]
    own = tuple(places[text] for text in negative.sub_prompts[0].texts) if negative else ()
    return Conditioning(tuple(known), tuple(guides), own)


def with_zero_negative(conditioning: Conditioning, steps: int) -> Conditioning:
    """The conditioning with zeros for the negative prompt."""
    texts = (*conditioning.texts, zero_conditioning(conditioning.texts))
    return Conditioning(texts, conditioning.positive, (len(texts) - 1,) * steps, zero_negative=True)
