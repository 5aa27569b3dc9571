"""The prompts of a run by step: which text conditions each row of a call of the denoiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    prompt. zero_negative: the negative conditioning is zeros, which may have any length. padded: False where texts keep
    their own lengths: a repeated row would weigh as much as another token.
    """

    texts: tuple[TextConditioning, ...]
    positive: tuple[tuple[float, tuple[int, ...]], ...]
    negative: tuple[int, ...] = ()
    zero_negative: bool = False
    padded: bool = True

    def rows(self, step: int) -> tuple[Row | None, tuple[tuple[float, Row], ...]]:
        """The negative row of a step, and the weight and row of each prompt between ANDs."""
        texts = [texts[step] for _, texts in self.positive]
        negative = self.negative[step] if self.negative else None
        tokens = self.lengths(texts, negative)
        positive = tuple(
            (weight, Row(text, tokens[text])) for (weight, _), text in zip(self.positive, texts, strict=True)
        )
        if negative is None:
            return None, positive
        own = self.texts[negative].tokens if self.padded else tokens[negative]
        longest = max(tokens[text] for text in texts)
        return Row(negative, longest if self.zero_negative else own, negative=True), positive

    def lengths(self, positive: Sequence[int], negative: int | None) -> dict[int, int]:
        """The tokens that each text of a step is brought to.

        Without padding only a text of one token, such as an empty one, is as long as the longest: attention to copies
        of a token is attention to it. It has at least two, as OpenVINO 2026.4 on a CPU computes wrong numbers for more
        tokens after a first call with one.
        """
        own = {text: self.texts[text].tokens for text in (*positive, *([] if negative is None else [negative]))}
        if self.padded:
            return own | dict.fromkeys(positive, max(own[text] for text in positive))
        longest = max(2, *own.values())
        return {text: longest if tokens == 1 else tokens for text, tokens in own.items()}

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
    *,
    padded: bool = True,
) -> Conditioning:
    """Returns the conditioning of a run's prompts.

    negative: None for none. blend: a second prompt and the share of it, 0 to 1, in the interpolation between both.
    padded: as in `Conditioning`.
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
    return Conditioning(tuple(known), tuple(guides), own, padded=padded)


def with_zero_negative(conditioning: Conditioning, steps: int) -> Conditioning:
    """The conditioning with zeros for the negative prompt."""
    texts = (*conditioning.texts, zero_conditioning(conditioning.texts))
    negative = (len(texts) - 1,) * steps
    return replace(conditioning, texts=texts, negative=negative, zero_negative=True)
