"""Prompts as the UNet sees them: the packed cross-attention keys and values of every text, computed once a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from latentrt.bundle.manifest import Text
from latentrt.prompt import Chunk, Prompt
from latentrt.tensors import Array

Call = Callable[..., dict[str, Array]]


class Row(NamedTuple):
    """A text as the UNet is called with it: how many tokens long its keys and values are to be, and its part.

    bare: whether the UNet is not shown the image besides which it is shown otherwise.
    """

    text: str
    tokens: int
    negative: bool = False
    bare: bool = False


@dataclass(frozen=True)
class Encoded:
    """What a text becomes: cross_kv (1, tokens, K), and pooled (1, P) where the family has it."""

    cross_kv: Array
    pooled: Array | None = None

    @property
    def tokens(self) -> int:
        """How many tokens the keys and values are of."""
        return int(self.cross_kv.shape[1])


@dataclass(frozen=True)
class Conditioning:
    """The prompts of a run, and what each distinct text becomes.

    zero: what stands for the negative prompt where the model has zeros for one that is not given. Prompts between ANDs
    are made as long as the longest by repeating their last row, as AUTOMATIC1111 does.
    """

    negative: Prompt
    positive: Prompt
    texts: Mapping[str, Encoded]
    zero: Encoded | None = None

    def rows(self, step: int) -> tuple[Row, tuple[tuple[float, Row], ...]]:
        """The negative text of a step, and the weight and text of each prompt between ANDs, with their lengths."""
        [negative] = (guide.texts[step] for guide in self.negative.guides)
        texts = [guide.texts[step] for guide in self.positive.guides]
        longest = max(self.texts[text].tokens for text in texts)
        positives = (
            (guide.weight, Row(text, longest)) for guide, text in zip(self.positive.guides, texts, strict=True)
        )
        own = self.texts[negative].tokens if negative in self.texts else 0
        return Row(negative, longest if self.zero else own, negative=True), tuple(positives)

    def encoded(self, text: str, *, negative: bool = False) -> Encoded:
        """What a text becomes in its part."""
        return self.zero if negative and self.zero else self.texts[text]

    def used(self) -> list[tuple[str, bool]]:
        """Every text that a call may have, and whether as a negative one."""
        prompts = ((self.positive, False), (self.negative, True))
        places = ((text, negative) for prompt, negative in prompts for text in prompt.chunks)
        return [(text, negative) for text, negative in places if text in self.texts or (negative and self.zero)]

    def packed(self, row: Row) -> Array:
        """The keys and values of a text, (1, tokens, K), as long as the row says."""
        found = self.encoded(row.text, negative=row.negative).cross_kv
        missing = row.tokens - found.shape[1]
        return np.pad(found, ((0, 0), (0, missing), (0, 0)), "edge") if missing else found


def encode(call: Call, how: Text, prompts: Sequence[Prompt], clip_skip: int) -> dict[str, Encoded]:
    """What every distinct text of `prompts` becomes, all texts in one call of each graph.

    call: runs a component by name. A text of several chunks is encoded chunk by chunk, and they attend as one; pooled
    is of the first, as in AUTOMATIC1111.
    """
    chunks = {text: parts for prompt in prompts for text, parts in prompt.chunks.items()}
    rows = [chunk for parts in chunks.values() for chunk in parts]
    said = []
    for encoder in how.encoders:
        pad = how.pads.get(encoder)
        ids = np.array([chunk.ids if pad is None else chunk.padded(pad) for chunk in rows], np.int64)
        said.append(call(encoder, input_ids=ids, clip_skip=np.array([clip_skip])))
    contexts = [emphasised(outputs["context"], rows) for outputs in said]
    cross_kv = call("cross_kv", context=np.concatenate(contexts, -1) if len(contexts) > 1 else contexts[0])["cross_kv"]
    pooled = next((outputs["pooled"] for outputs in said if "pooled" in outputs), None)
    found, start = {}, 0
    for text, parts in chunks.items():
        end = start + len(parts)
        summary = None if pooled is None else pooled[start : start + 1]
        found[text] = Encoded(cross_kv[start:end].reshape(1, -1, cross_kv.shape[-1]), summary)
        start = end
    return found


def nothing(texts: Mapping[str, Encoded]) -> Encoded:
    """Zeros in the place of a text, as long as the longest of `texts`: of zeros, keys and values are zeros too."""
    longest = max(texts.values(), key=lambda encoded: encoded.tokens)
    pooled = None if longest.pooled is None else np.zeros_like(longest.pooled)
    return Encoded(np.zeros_like(longest.cross_kv), pooled)


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
