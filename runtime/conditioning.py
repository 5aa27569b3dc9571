"""Prompts as the UNet sees them: the packed cross-attention keys and values of every text, computed once a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latentrt.prompt import Chunk, Prompt
from latentrt.tensors import Array

Call = Callable[..., dict[str, Array]]
Row = tuple[str, int]  # a text, and how many tokens long its keys and values are to be


@dataclass(frozen=True)
class Conditioning:
    """The prompts of a run, and the keys and values of each distinct text: (1, tokens, K) by text.

    Prompts between ANDs are made as long as the longest by repeating their last row, as AUTOMATIC1111 does.
    """

    negative: Prompt
    positive: Prompt
    cross_kv: Mapping[str, Array]

    def rows(self, step: int) -> tuple[Row, tuple[tuple[float, Row], ...]]:
        """The negative text of a step, and the weight and text of each prompt between ANDs, with their lengths."""
        [negative] = self.negative.guides
        texts = [guide.texts[step] for guide in self.positive.guides]
        longest = max(self.cross_kv[text].shape[1] for text in texts)
        positives = ((guide.weight, (text, longest)) for guide, text in zip(self.positive.guides, texts, strict=True))
        own = self.cross_kv[negative.texts[step]].shape[1] if negative.texts[step] in self.cross_kv else 0
        return (negative.texts[step], own), tuple(positives)

    def packed(self, row: Row) -> Array:
        """The keys and values of a text, (1, tokens, K), as long as the row says."""
        text, tokens = row
        found = self.cross_kv[text]
        missing = tokens - found.shape[1]
        return np.pad(found, ((0, 0), (0, missing), (0, 0)), "edge") if missing else found


def encode(call: Call, prompts: Sequence[Prompt], clip_skip: int) -> dict[str, Array]:
    """The keys and values, (1, tokens, K), of every distinct text of `prompts`, all texts in one call of each graph.

    call: runs a component by name. A text of several chunks is encoded chunk by chunk, and they attend as one.
    """
    chunks = {text: parts for prompt in prompts for text, parts in prompt.chunks.items()}
    rows = [chunk for parts in chunks.values() for chunk in parts]
    ids = np.array([chunk.ids for chunk in rows], np.int64)
    context = call("text_encoder", input_ids=ids, clip_skip=np.array([clip_skip]))["context"]
    cross_kv = call("cross_kv", context=emphasised(context, rows))["cross_kv"]
    found, start = {}, 0
    for text, parts in chunks.items():
        end = start + len(parts)
        found[text] = cross_kv[start:end].reshape(1, -1, cross_kv.shape[-1])
        start = end
    return found


def emphasised(context: Array, chunks: Sequence[Chunk]) -> Array:
    """Each token's vector times its weight, the chunk then brought back to its mean: AUTOMATIC1111's rule.

    context: (chunks, tokens, width), returned as it is where every weight is 1.
    """
    weights = np.array([chunk.weights for chunk in chunks], np.float32)
    if (weights == 1).all():
        return context
    scaled = context.astype(np.float32) * weights[:, :, np.newaxis]
    before, after = (array.mean((1, 2), keepdims=True, dtype=np.float64) for array in (context, scaled))
    back = np.divide(before, after, out=np.ones_like(after), where=after != 0)
    restored: Array = (scaled * back).astype(context.dtype)
    return restored
