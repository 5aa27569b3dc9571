"""Blends of two prompts: the interpolation of their text conditioning."""

from __future__ import annotations

import numpy as np

from latentrt.conditioning.text import TextConditioning
from latentrt.errors import RequestError
from latentrt.prompt import Prompt
from latentrt.tensors import Array


def check_blend(*prompts: Prompt) -> None:
    """Raises RequestError for prompts of several parts, which have no counterparts in each other."""
    for prompt in prompts:
        if len(prompt.sub_prompts) > 1 or prompt.weight != 1:
            raise RequestError(
                f"blend: got a prompt of {len(prompt.sub_prompts)} parts with AND, expected prompts without"
            )


def interpolated_conditioning(one: TextConditioning, other: TextConditioning, share: float) -> TextConditioning:
    """Returns the linear interpolation of two texts: `one` at a share of 0, `other` at 1.

    Keys and values are linear in the text encoder's output, so interpolating either gives the same. The shorter text is
    made as long as the longer by repeating its last row, as between ANDs.
    """
    longest = max(one.tokens, other.tokens)
    return TextConditioning(
        {name: interpolated(one.resized(name, longest), other.resized(name, longest), share) for name in one.sequences},
        {name: interpolated(array, other.vectors[name], share) for name, array in one.vectors.items()},
    )


def interpolated(one: Array, other: Array, share: float) -> Array:
    """The linear interpolation of two arrays, in the type of the first."""
    mixed: Array = ((1 - share) * one.astype(np.float32) + share * other.astype(np.float32)).astype(one.dtype)
    return mixed
