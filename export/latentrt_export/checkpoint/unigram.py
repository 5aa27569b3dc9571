"""T5's tokenizer of a checkpoint as the runtime's `Tokenizer`: SentencePiece's unigram model, whose rows end in </s>.

Only pieces, scores, replaced characters and special tokens of a folder are read; the rest is T5's, as in
`transformers.T5Tokenizer.from_pretrained` since version 5. For PixArt texts are lowered first, as its pipelines lower
them, and rows are as long as their texts; for Stable Diffusion 3 they are neither.

Source: Kudo (2018), "Subword Regularization"; `T5Tokenizer.__init__` of transformers 5.24 (models/t5), whose ids it
must give; `_text_preprocessing` of diffusers 0.42.1's PixArtSigmaPipeline.
"""

import base64
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers
from tokenizers.models import Unigram

from latentrt.errors import CheckpointError
from latentrt.prompt.tokenizer import Tokenizer, token_id
from latentrt_export.checkpoint.sentence_piece import UnigramModel, unigram_model
from latentrt_export.checkpoint.vocabulary import (
    Json,
    Vocabulary,
    all_tokens,
    check_known,
    read_object,
    specials_of,
)

# The most tokens of a row, </s> included; families take fewer.
LENGTH = 512
# In transformers' order, in which tokens that the vocabulary lacks get their ids. Values: T5Tokenizer's defaults.
NAMED = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
SPACE = "▁"


def unigram_tokenizer(folder: Path, *, lowered: bool = True, padded: bool = False) -> Tokenizer:
    """Return the tokenizer of a folder that has `tokenizer.json` or `spiece.model`.

    lowered: texts have small letters only. padded: as in `Tokenizer`. Use `T5.read`, which reports damaged files.
    """
    config = read_object(folder / "tokenizer_config.json", optional=True)
    T5.check(folder, config)
    model, stored = model_in(folder)
    named, specials, added = specials_of(folder, config, stored, NAMED)
    vocabulary = [piece for piece, _ in model.pieces]
    check_known(folder, {name: token.content for name, token in zip(NAMED, named, strict=True)}, vocabulary, added)
    backend = backend_of(model, all_tokens(specials, added), lowered=lowered)
    eos, _, pad = (token_id(backend, token.content) for token in named)
    return Tokenizer(backend, LENGTH, None, eos, pad, padded=padded)


def model_in(folder: Path) -> tuple[UnigramModel, list[Json]]:
    """Return the model and the added tokens from `tokenizer.json`, else from `spiece.model`."""
    pieces, whole = folder / "spiece.model", folder / "tokenizer.json"
    if whole.is_file():
        stored = read_object(whole)
        model = stored["model"]
        if not isinstance(model.get("vocab"), list):
            raise CheckpointError(f"{whole}: not T5's, expected a unigram model, whose vocab is a list of scores")
        read = UnigramModel(tuple(map(tuple, model["vocab"])), model["unk_id"], replacements_in(stored))
        return read, stored.get("added_tokens", [])
    if pieces.is_file():
        return unigram_model(pieces), []
    raise T5.missing(folder)


def replacements_in(stored: Json) -> bytes:
    """Return the compiled table of characters that a `tokenizer.json` replaces; empty for none."""
    normalizer = stored.get("normalizer") or {}
    every = normalizer.get("normalizers", [normalizer])
    tables = (one["precompiled_charsmap"] for one in every if one.get("type") == "Precompiled")
    return base64.b64decode(next(tables, None) or "")


def backend_of(model: UnigramModel, tokens: Sequence[AddedToken], *, lowered: bool = True) -> tokenizers.Tokenizer:
    """Return T5's tokenizer. tokens: cut out of a text before it is split. lowered: as in `unigram_tokenizer`."""
    backend = tokenizers.Tokenizer(Unigram([*model.pieces], unk_id=model.unknown, byte_fallback=False))
    replaced = [normalizers.Precompiled(model.replacements)] if model.replacements else []
    backend.normalizer = normalizers.Sequence([*([normalizers.Lowercase()] if lowered else []), *replaced])
    spaces = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), spaces])
    backend.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    backend.add_tokens(list(tokens))
    return backend


def no_vocabulary() -> Tokenizer:
    """Raise CheckpointError: no package has T5's vocabulary."""
    raise CheckpointError(
        "got no tokenizer, expected T5's; pass a folder with its spiece.model or tokenizer.json by --tokenizer DIR"
    )


CLASSES, FILES = ("T5Tokenizer", "T5TokenizerFast"), "tokenizer.json or spiece.model"
T5 = Vocabulary(CLASSES, FILES, unigram_tokenizer, no_vocabulary)
PADDED_T5 = Vocabulary(CLASSES, FILES, partial(unigram_tokenizer, lowered=False, padded=True), no_vocabulary)
