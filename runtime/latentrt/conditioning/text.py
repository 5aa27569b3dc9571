"""Text conditioning: the arrays that every prompt text becomes, computed once per run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from latentrt.bundle.manifest import Component, Manifest, Text
from latentrt.bundle.sources import InputSource
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

    call: runs a component by name. The chunks of a long text are encoded one by one, and their tokens concatenated,
    those of each tokenizer after those of the one before; the vectors are the first chunk's, as in AUTOMATIC1111.
    """
    lines = {text: lines_of(manifest.text, prompt, text) for prompt in prompts for text in prompt.chunks}
    groups = defaultdict[tuple[tuple[str, ...], int], list[Chunk]](list)
    for line in (line for parts in lines.values() for line in parts):
        groups[line.group].append(line.chunk)
    made = {group: iter(rows_of(call, manifest, group[0], rows, clip_skip)) for group, rows in groups.items()}
    return {text: joined([next(made[line.group]) for line in parts]) for text, parts in lines.items()}


class Line(NamedTuple):
    """A row of tokens, and the text encoders that take it; none where the checkpoint lacks the encoder."""

    encoders: tuple[str, ...]
    chunk: Chunk

    @property
    def group(self) -> tuple[tuple[str, ...], int]:
        """Lines with the same encoders and number of tokens share calls."""
        return self.encoders, len(self.chunk.ids)


def lines_of(spec: Text | None, prompt: Prompt, text: str) -> list[Line]:
    """The rows of a text of the prompt: of its chunks by each tokenizer, and of an encoder that is missing."""
    if spec is None:
        return []
    shared = tuple(name for name in spec.encoders if name not in prompt.others)
    lines = [Line(shared, chunk) for chunk in prompt.chunks[text]]
    lines += [Line((name,), chunk) for name, chunks in prompt.others.items() for chunk in chunks[text]]
    empty = Chunk((0,) * spec.missing, (1.0,) * spec.missing)
    return [*lines, Line((), empty)] if spec.missing else lines


def joined(rows: Sequence[Mapping[str, Array]]) -> TextConditioning:
    """The arrays of one text, from those of its chunks, (1, ...) each."""
    names = [*rows[0]] if rows else []
    whole = {name: np.concatenate([row[name] for row in rows], 1) for name in names if rows[0][name].ndim == 3}
    return TextConditioning(whole, {name: rows[0][name] for name in names if name not in whole})


def rows_of(
    call: Call, manifest: Manifest, encoders: Sequence[str], rows: Sequence[Chunk], clip_skip: int
) -> list[dict[str, Array]]:
    """The arrays of each chunk, (1, ...), that the denoiser or a graph that feeds it takes. rows: of one length."""
    arrays = encoder_outputs(call, manifest, encoders, rows, clip_skip)
    for name, component in manifest.hoisted.items():
        if from_text(component):
            arrays |= call(name, **{key: arrays[source.name] for key, source in component.sources.items()})
    taken = sorted(taken_from_text(manifest) & arrays.keys())
    return [{name: arrays[name][place : place + 1] for name in taken} for place in range(len(rows))]


def encoder_outputs(
    call: Call, manifest: Manifest, encoders: Sequence[str], rows: Sequence[Chunk], clip_skip: int
) -> dict[str, Array]:
    """The context of all chunks, (chunks, tokens, width), and `pooled` (chunks, width) where encoders have it.

    What several encoders make stands side by side. A context narrower than what takes it is filled with zeros, as by
    diffusers 0.42.1's StableDiffusion3Pipeline (`encode_prompt`), and is zeros alone without an encoder.
    """
    outputs, known = [], {"clip_skip": np.array([clip_skip]), "mask": mask_of(rows)}
    pads = manifest.text.pads if manifest.text else {}
    for encoder in encoders:
        pad = pads.get(encoder)
        ids = np.array([chunk.ids if pad is None else chunk.padded(pad) for chunk in rows], np.int64)
        taken = {spec.name: known[spec.name] for spec in manifest.components[encoder].inputs if spec.name in known}
        outputs.append(call(encoder, input_ids=ids, **taken))
    contexts = [apply_weights(one["context"], rows) for one in outputs]
    pooled = [one["pooled"] for one in outputs if "pooled" in one]
    missing = context_width(manifest) - sum(one.shape[-1] for one in contexts)
    if missing > 0:
        contexts.append(np.zeros((len(rows), len(rows[0].ids), missing), np.float32))
    arrays = {"context": contexts, "pooled": pooled}
    return {name: np.concatenate(found, -1) if len(found) > 1 else found[0] for name, found in arrays.items() if found}


def context_width(manifest: Manifest) -> int:
    """The width of the context that the denoiser or a hoisted graph takes; 0 where none takes it."""
    fed = [manifest.components[manifest.denoiser], *manifest.hoisted.values()]
    inputs = ((spec, one.sources[spec.name]) for one in fed for spec in one.inputs if spec.name in one.sources)
    return next((int(spec.shape[-1]) for spec, source in inputs if is_context(source)), 0)


def is_context(source: InputSource) -> bool:
    """Whether it is the context of the text encoders."""
    return source.kind == "text" and source.name == "context"


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
