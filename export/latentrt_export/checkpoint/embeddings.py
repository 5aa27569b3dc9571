"""Textual inversion: words with learned vectors, added to a checkpoint's tokenizer and text encoders.

The vectors become additional rows of the text encoder's embedding table, so only the tokenizer knows of them.
Source: Gal et al. 2022; files, names and order are those of diffusers 0.42.1's `load_textual_inversion`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import AddedToken

from latentrt.bundle.folder import sha256_of
from latentrt.errors import CheckpointError
from latentrt.lora.files import Lora
from latentrt.prompt.tokenizer import Tokenizer
from latentrt_export.checkpoint.embedding_files import Word, has_bundled, words_in
from latentrt_export.checkpoint.load import Checkpoint, Component
from latentrt_export.checkpoint.stored import Stored, zeros

# Ends of the keys of tables of token vectors: CLIP's, LDM-BERT's.
TABLES = ("embeddings.token_embedding.weight", "model.embed_tokens.weight")
UNFIT = re.compile(r"[\s()\[\]\\]")
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Embedding:
    """A file of textual inversion and its word in prompts; None for the word in the file.

    bundled: the file is a LoRA with words; those that the vocabulary has already are left out.
    """

    file: Path
    token: str | None = None
    bundled: bool = False


@dataclass(frozen=True)
class CheckpointWithWords:
    """A checkpoint and its tokenizer with words added, and the provenance of their files."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    provenance: Mapping[str, str]


def bundled_in(loras: Sequence[Lora]) -> tuple[Embedding, ...]:
    """Returns the LoRA files with bundled words."""
    return tuple(Embedding(lora.file, bundled=True) for lora in loras if lora.file.is_file() and has_bundled(lora.file))


def with_embeddings(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    embeddings: Sequence[Embedding],
    progress: Progress = lambda line: None,
) -> CheckpointWithWords:
    """Returns both with every word of `embeddings` added, in that order; the tokenizer's backend is changed in place.

    Layouts of files: see `embedding_files`. A word of several vectors becomes as many tokens: WORD, WORD_1 and so on.
    If a word has vectors for one of two text encoders, the other gets zeros. progress: called with one line for each
    word that is left out or filled with zeros. Raises CheckpointError for a file that is missing, damaged or of another
    kind, for vectors of another width, and for a word that cannot be added.
    """
    files = []
    for one in embeddings:
        configs = {name: component.config for name, component in checkpoint.components.items()}
        names = []
        for name, word in _named(one, words_in(one.file, checkpoint.family, configs)):
            if one.bundled and name in tokenizer.backend.get_vocab():
                progress(f"{one.file.name}: the word {name!r} is there already, the file's own is left out")
                continue
            checkpoint, tokenizer = _added(one, name, word, checkpoint, tokenizer)
            names.append(name)
            for line in _notices(word, checkpoint):
                progress(f"{one.file.name}: {line}")
        if one.bundled and names:
            progress(f"{one.file.name} brings words: {', '.join(names)}")
        files.append(f"{one.file.name}, {', '.join(names) or 'no word'}, sha256 {sha256_of(one.file)}")
    provenance = {f"embedding {number}": line for number, line in enumerate(files, 1)}
    return CheckpointWithWords(checkpoint, tokenizer, provenance)


def words_of(tokenizer: Tokenizer) -> dict[str, int]:
    """The added words, and the number of vectors of each."""
    return {str(tokenizer.backend.id_to_token(number)): count for number, count in tokenizer.vectors.items()}


def _named(one: Embedding, words: Sequence[Word]) -> Iterator[tuple[str, Word]]:
    """Yields the words of a file, each with its token."""
    if one.token is not None and len(words) > 1:
        held = ", ".join(str(word.name) for word in words)
        raise CheckpointError(
            f"{one.file} holds the words {held}, got the one token {one.token!r} for them; leave it out"
        )
    for word in words:
        yield word.name or one.file.stem if one.token is None else one.token, word


def _notices(word: Word, checkpoint: Checkpoint) -> Iterator[str]:
    """Yields one line for each part of a word that is left out or filled with zeros."""
    if word.left_out:
        yield f"{', '.join(word.left_out)} is left out: only what goes into a text encoder is read"
    for name in checkpoint.family.encoders.keys() - word.tensors.keys():
        yield f"it has no vectors for {name}, which sees zeros in their place"


def _added(
    one: Embedding, name: str, word: Word, checkpoint: Checkpoint, tokenizer: Tokenizer
) -> tuple[Checkpoint, Tokenizer]:
    """Returns both with one word added."""
    _check(one, name, tokenizer)
    count = _count(one, word.tensors, tokenizer)
    first = tokenizer.backend.get_vocab_size()
    tokenizer.backend.add_tokens([AddedToken(name), *(AddedToken(f"{name}_{i}") for i in range(1, count))])
    # A config with the old eos_token_id takes the highest token as the end of text: set the real one.
    changes = {"vocab_size": first + count, "eos_token_id": tokenizer.eos}
    components = dict(checkpoint.components)
    for encoder in checkpoint.family.encoders:
        width = components[encoder].config["hidden_size"]
        stored = word.tensors.get(encoder) or zeros(one.file, (count, width))
        components[encoder] = _extended(components[encoder], stored, first, changes)
    tokenizer = replace(tokenizer, vectors={**tokenizer.vectors, first: count})
    return replace(checkpoint, components=components), tokenizer


def _check(one: Embedding, name: str, tokenizer: Tokenizer) -> None:
    """Raises CheckpointError unless the name can become a token."""
    if not name or UNFIT.search(name):
        raise CheckpointError(
            f"{one.file}: got the token {name!r}, expected a word without spaces, brackets and backslashes; name one "
            f"with {one.file.name}:TOKEN"
        )
    vocabulary = tokenizer.backend.get_vocab()
    for taken in (name, f"{name}_1"):
        if taken in vocabulary:
            raise CheckpointError(
                f"{one.file}: the token {taken!r} is in the vocabulary already; name another with {one.file.name}:TOKEN"
            )


def _count(one: Embedding, tensors: Mapping[str, Stored], tokenizer: Tokenizer) -> int:
    """Returns the number of vectors per text encoder."""
    counts = {stored.shape[0] if len(stored.shape) == 2 else 1 for stored in tensors.values()}
    if len(counts) > 1 or not 1 <= min(counts) <= tokenizer.length - 2:
        raise CheckpointError(
            f"{one.file} holds {' and '.join(map(str, sorted(counts)))} vectors, expected as many for each text "
            f"encoder, from 1 to {tokenizer.length - 2}; fetch the file again"
        )
    return counts.pop()


def _extended(component: Component, stored: Stored, first: int, changes: Mapping[str, int]) -> Component:
    """Returns the component with `first` rows in its embedding table, and the file's rows after them."""
    [key] = [key for key in component.weights if key.endswith(TABLES)]
    table, earlier = component.weights[key], component.appended.get(key, ())
    width = table.shape[1]
    own = first - sum(math.prod(rows.shape) // width for rows in earlier)
    return replace(
        component,
        config={**component.config, **changes},
        weights={**component.weights, key: replace(table, shape=(own, width))},
        appended={**component.appended, key: (*earlier, stored)},
    )
