"""Textual inversion: words that stand for learned vectors, added to a checkpoint's tokenizer and its text encoders.

The vectors become rows of the text encoder's table, behind those that it has, so only the tokenizer knows of them.
Source: Gal et al. 2022; files, names and order are those of diffusers 0.42.1's `load_textual_inversion`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import AddedToken

from latentrt.bundle import sha256_of
from latentrt.errors import CheckpointError, first_few
from latentrt.export.load import FLOATS, Checkpoint, Component, Stored, header
from latentrt.tokenizer import Tokenizer

TABLE = "embeddings.token_embedding.weight"
# The name of each text encoder's vectors in a file that has those of several.
KEYS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
# Names of tensors that are no word; the file's own name is.
NAMELESS = ("emb_params", "*", *KEYS.values())
UNFIT = re.compile(r"[\s()\[\]\\]")


@dataclass(frozen=True)
class Embedding:
    """A file of textual inversion, and the word that stands for it, the file's own where it is None."""

    file: Path
    token: str | None = None


def with_embeddings(
    checkpoint: Checkpoint, tokenizer: Tokenizer, embeddings: Sequence[Embedding]
) -> tuple[Checkpoint, Tokenizer]:
    """Returns both with every word of `embeddings` added, in that order; the tokenizer's backend is changed in place.

    Files hold one tensor, (width) or (vectors, width), or those of SDXL's two text encoders, `clip_l` and `clip_g`. A
    word of several vectors is so many tokens, the others named WORD_1 and on. Raises CheckpointError for a file that is
    missing, damaged or none of these, for vectors of another width, and for a word that cannot be added.
    """
    for one in embeddings:
        tensors = _tensors(one, checkpoint)
        word, count = _word(one, tensors, tokenizer), _count(one, tensors, tokenizer)
        first = tokenizer.backend.get_vocab_size()
        tokenizer.backend.add_tokens([AddedToken(word), *(AddedToken(f"{word}_{i}") for i in range(1, count))])
        # An encoder that looks for the highest token as the end of text would find one of these.
        changes = {"vocab_size": first + count, "eos_token_id": tokenizer.eos}
        components = {
            name: _extended(checkpoint.components[name], stored, first, changes) for name, stored in tensors.items()
        }
        checkpoint = replace(checkpoint, components={**checkpoint.components, **components})
        tokenizer = replace(tokenizer, vectors={**tokenizer.vectors, first: count})
    return checkpoint, tokenizer


def words_of(tokenizer: Tokenizer) -> dict[str, int]:
    """The words that were added, and how many vectors each has."""
    return {str(tokenizer.backend.id_to_token(number)): count for number, count in tokenizer.vectors.items()}


def embeddings_provenance(embeddings: Sequence[Embedding], tokenizer: Tokenizer) -> dict[str, str]:
    """What a bundle says of the files that were added, by their place."""
    return {
        f"embedding {place}": f"{one.file.name}, {word}, sha256 {sha256_of(one.file)}"
        for place, (one, word) in enumerate(zip(embeddings, words_of(tokenizer), strict=True), 1)
    }


def _tensors(one: Embedding, checkpoint: Checkpoint) -> dict[str, Stored]:
    """Returns the file's tensor for each text encoder."""
    if not one.file.is_file():
        raise CheckpointError(f"no embedding at {one.file}: expected a .safetensors file; nothing is downloaded here")
    held, encoders = header(one.file), checkpoint.family.encoders
    alone = [*encoders] == ["text_encoder"]
    if alone:
        found = dict(zip(encoders, held.values(), strict=False)) if len(held) == 1 else {}
    else:
        found = {name: held[KEYS[name]] for name in encoders if KEYS[name] in held}
    if found.keys() != encoders.keys():
        wanted = "one tensor" if alone else "clip_l and clip_g"
        raise CheckpointError(
            f"{one.file} holds {first_few([*held]) or 'nothing'}, expected {wanted}; give an embedding for "
            f"{checkpoint.family.name}"
        )
    for name, stored in found.items():
        width = checkpoint.components[name].config["hidden_size"]
        if stored.dtype not in FLOATS or len(stored.shape) not in (1, 2) or stored.shape[-1] != width:
            raise CheckpointError(
                f"{one.file}: {stored.key} is {stored.dtype} of shape {stored.shape}, expected floats whose last axis "
                f"is {width}, the width of {name}; give an embedding for {checkpoint.family.name}"
            )
    return found


def _word(one: Embedding, tensors: Mapping[str, Stored], tokenizer: Tokenizer) -> str:
    """Returns the word that stands for the file, once known to be one that can be added."""
    key = next(iter(tensors.values())).key
    word = one.token if one.token is not None else one.file.stem if key in NAMELESS else key
    if not word or UNFIT.search(word):
        raise CheckpointError(
            f"{one.file}: got the token {word!r}, expected a word without spaces, brackets and backslashes; name one "
            f"with {one.file.name}:TOKEN"
        )
    vocabulary = tokenizer.backend.get_vocab()
    for taken in (word, f"{word}_1"):
        if taken in vocabulary:
            raise CheckpointError(
                f"{one.file}: the token {taken!r} is in the vocabulary already; name another with {one.file.name}:TOKEN"
            )
    return word


def _count(one: Embedding, tensors: Mapping[str, Stored], tokenizer: Tokenizer) -> int:
    """Returns how many vectors the file holds for each text encoder."""
    counts = {stored.shape[0] if len(stored.shape) == 2 else 1 for stored in tensors.values()}
    if len(counts) > 1 or not 1 <= min(counts) <= tokenizer.length - 2:
        raise CheckpointError(
            f"{one.file} holds {' and '.join(map(str, sorted(counts)))} vectors, expected as many for each text "
            f"encoder, from 1 to {tokenizer.length - 2}; fetch the file again"
        )
    return counts.pop()


def _extended(component: Component, stored: Stored, first: int, changes: Mapping[str, int]) -> Component:
    """Returns the component with `first` rows in its table of tokens, and those of the file behind them."""
    [key] = [key for key in component.weights if key.endswith(TABLE)]
    table, earlier = component.weights[key], component.appended.get(key, ())
    width = table.shape[1]
    own = first - sum(math.prod(rows.shape) // width for rows in earlier)
    return replace(
        component,
        config={**component.config, **changes},
        weights={**component.weights, key: replace(table, shape=(own, width))},
        appended={**component.appended, key: (*earlier, stored)},
    )
