"""Text conditioning: the arrays that every prompt text becomes, computed once per run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latentrt.bundle.manifest import Component, Manifest, Text
from latentrt.prompt import Chunk, Prompt
from latentrt.tensors import Array

Call = Callable[..., dict[str, Array]]


@dataclass(frozen=True)
class TextConditioning:
    """The arrays of one text that the denoiser, or a graph that feeds it, takes; by name.

    sequences: (1, tokens, width) each. vectors: (1, width) each, of the text as a whole.
    """

    sequences: Mapping[str, Array]
    vectors: Mapping[str, Array]

    @property
    def tokens(self) -> int:
        """The number of tokens."""
        return next((int(array.shape[1]) for array in self.sequences.values()), 0)

    def resized(self, name: str, tokens: int) -> Array:
        """A sequence cut to `tokens`, or made as long by repeating its last row."""
        found = self.sequences[name][:, :tokens]
        missing = tokens - found.shape[1]
        return np.pad(found, ((0, 0), (0, missing), (0, 0)), "edge") if missing else found


def encode(call: Call, manifest: Manifest, prompts: Sequence[Prompt], clip_skip: int) -> dict[str, TextConditioning]:
    """Returns the conditioning of every distinct text of `prompts`; texts whose rows are equally long share calls.

    call: runs a component by name. The chunks of a long text are encoded one by one, and their tokens concatenated; the
    vectors are those of the first chunk, as in AUTOMATIC1111.
    """
    chunks = {text: parts for prompt in prompts for text, parts in prompt.chunks.items()}
    rows = [chunk for parts in chunks.values() for chunk in parts]
    groups = defaultdict[int, list[Chunk]](list)
    for row in rows:
        groups[len(row.ids)].append(row)
    made = {length: iter(rows_of(call, manifest, group, clip_skip)) for length, group in groups.items()}
    return {text: joined([next(made[len(part.ids)]) for part in parts]) for text, parts in chunks.items()}


def joined(rows: Sequence[Mapping[str, Array]]) -> TextConditioning:
    """The arrays of one text, from those of its chunks, (1, ...) each."""
    names = [*rows[0]] if rows else []
    whole = {name: np.concatenate([row[name] for row in rows], 1) for name in names if rows[0][name].ndim == 3}
    return TextConditioning(whole, {name: rows[0][name] for name in names if name not in whole})


def rows_of(call: Call, manifest: Manifest, rows: Sequence[Chunk], clip_skip: int) -> list[dict[str, Array]]:
    """The arrays of each chunk, (1, ...), that the denoiser or a graph that feeds it takes. rows: of one length."""
    if manifest.text is None:
        return [{} for _ in rows]
    arrays = encoder_outputs(call, manifest, manifest.text, rows, clip_skip)
    for name, component in manifest.hoisted.items():
        if from_text(component):
            arrays |= call(name, **{key: arrays[source.name] for key, source in component.sources.items()})
    taken = sorted(taken_from_text(manifest))
    return [{name: arrays[name][place : place + 1] for name in taken} for place in range(len(rows))]


def encoder_outputs(
    call: Call, manifest: Manifest, text: Text, rows: Sequence[Chunk], clip_skip: int
) -> dict[str, Array]:
    """The context of all chunks, (chunks, tokens, width), and `pooled` (chunks, width) where an encoder has it."""
    outputs, known = [], {"clip_skip": np.array([clip_skip]), "mask": mask_of(rows)}
    for encoder in text.encoders:
        pad = text.pads.get(encoder)
        ids = np.array([chunk.ids if pad is None else chunk.padded(pad) for chunk in rows], np.int64)
        taken = {spec.name: known[spec.name] for spec in manifest.components[encoder].inputs if spec.name in known}
        outputs.append(call(encoder, input_ids=ids, **taken))
    contexts = [apply_weights(one["context"], rows) for one in outputs]
    pooled = [one["pooled"] for one in outputs if "pooled" in one]
    context = np.concatenate(contexts, -1) if len(contexts) > 1 else contexts[0]
    return {"context": context, "pooled": pooled[0]} if pooled else {"context": context}


def mask_of(rows: Sequence[Chunk]) -> Array:
    """1 for a token and 0 for padding, (rows, tokens) float32. rows: of one length."""
    return np.array([[1.0] * (len(row.ids) - row.padding) + [0.0] * row.padding for row in rows], np.float32)


def from_text(component: Component) -> bool:
    """Whether a hoisted graph depends on the text alone."""
    return all(source.kind == "text" for source in component.sources.values())


def taken_from_text(manifest: Manifest) -> set[str]:
    """The names of text arrays that the denoiser takes, or a hoisted graph that depends on more than the text."""
    direct = [manifest.components[manifest.denoiser], *manifest.hoisted.values()]
    texts = (
        source for one in direct if not (one.role == "hoisted" and from_text(one)) for source in one.sources.values()
    )
    made = (spec.name for one in manifest.hoisted.values() if from_text(one) for spec in one.outputs)
    return {source.name for source in texts if source.kind == "text"} | set(made)


def zero_conditioning(texts: Sequence[TextConditioning]) -> TextConditioning:
    """Zeros in place of a text, as long as the longest: projections without a bias make zeros of zeros."""
    longest = max(texts, key=lambda text: text.tokens)
    return TextConditioning(
        {name: np.zeros_like(array) for name, array in longest.sequences.items()},
        {name: np.zeros_like(array) for name, array in longest.vectors.items()},
    )


def apply_weights(context: Array, chunks: Sequence[Chunk]) -> Array:
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
