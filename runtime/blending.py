"""Between two prompts: what the UNet is told of both, mixed in one proportion."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from latentrt.errors import RequestError
from latentrt.prompt import Guide, Prompt
from latentrt.tensors import Array


def check_blend(*prompts: Prompt) -> None:
    """Raises RequestError for prompts of several parts, of which none answers to another's."""
    for prompt in prompts:
        if len(prompt.guides) > 1 or prompt.weight != 1:
            raise RequestError(f"blend: got a prompt of {len(prompt.guides)} parts with AND, expected prompts without")


def blended(one: Prompt, other: Prompt, cross_kv: Mapping[str, Array], share: float) -> tuple[Prompt, dict[str, Array]]:
    """The prompt between two, and the keys and values of its text at each step: those of `one` at 0, of `other` at 1.

    Keys and values are linear in what the text encoder gives, so that it is the same to mix either. The shorter is made
    as long as the longer by repeating its last row, as between ANDs.
    """
    (first,), (second,) = one.guides, other.guides
    pairs = [*zip(first.texts, second.texts, strict=True)]
    names = tuple("\0".join(pair) for pair in pairs)  # which no text of a person holds
    mixed = {name: mix(cross_kv[a], cross_kv[b], share) for name, (a, b) in zip(names, pairs, strict=True)}
    return Prompt((Guide(1.0, names),), dict.fromkeys(mixed, ())), mixed


def mix(one: Array, other: Array, share: float) -> Array:
    """The straight mix of two arrays (1, tokens, K); in their type."""
    longest = max(one.shape[1], other.shape[1])
    ends = [np.pad(array, ((0, 0), (0, longest - array.shape[1]), (0, 0)), "edge") for array in (one, other)]
    mixed: Array = ((1 - share) * ends[0].astype(np.float32) + share * ends[1].astype(np.float32)).astype(one.dtype)
    return mixed
