"""Between two prompts: what the UNet is told of both, mixed in one proportion."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from latentrt.conditioning.text import Encoded
from latentrt.errors import RequestError
from latentrt.prompt import Guide, Prompt
from latentrt.tensors import Array


def check_blend(*prompts: Prompt) -> None:
    """Raises RequestError for prompts of several parts, of which none answers to another's."""
    for prompt in prompts:
        if len(prompt.guides) > 1 or prompt.weight != 1:
            raise RequestError(f"blend: got a prompt of {len(prompt.guides)} parts with AND, expected prompts without")


def blended(
    one: Prompt, other: Prompt, texts: Mapping[str, Encoded], share: float
) -> tuple[Prompt, dict[str, Encoded]]:
    """The prompt between two, and what its text becomes at each step: what that of `one` does at 0, of `other` at 1.

    Keys and values are linear in what the text encoder gives, so that it is the same to mix either. The shorter is made
    as long as the longer by repeating its last row, as between ANDs.
    """
    (first,), (second,) = one.guides, other.guides
    pairs = [*zip(first.texts, second.texts, strict=True)]
    names = tuple("\0".join(pair) for pair in pairs)  # which no text of a person holds
    mixed = {name: mix(texts[a], texts[b], share) for name, (a, b) in zip(names, pairs, strict=True)}
    return Prompt((Guide(1.0, names),), dict.fromkeys(mixed, ())), mixed


def mix(one: Encoded, other: Encoded, share: float) -> Encoded:
    """The straight mix of two texts."""
    longest = max(one.tokens, other.tokens)
    first, second = (
        np.pad(text.cross_kv, ((0, 0), (0, longest - text.tokens), (0, 0)), "edge") for text in (one, other)
    )
    pooled = None
    if one.pooled is not None and other.pooled is not None:
        pooled = between(one.pooled, other.pooled, share)
    return Encoded(between(first, second, share), pooled)


def between(one: Array, other: Array, share: float) -> Array:
    """The straight mix of two arrays, in the type of the first."""
    mixed: Array = ((1 - share) * one.astype(np.float32) + share * other.astype(np.float32)).astype(one.dtype)
    return mixed
