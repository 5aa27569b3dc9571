"""BERT's tokenizer of a checkpoint as the runtime's `Tokenizer`: WordPiece, with which LDM-BERT was trained.

Only the vocabulary and the special tokens of a folder are read; the rest is BERT's, as in
`transformers.BertTokenizer.from_pretrained` since version 5. [CLS] begins a row, [SEP] ends it, [PAD] fills it.

Source: Devlin et al. 2019, "BERT", section 3, and `BertTokenizer.__init__` of transformers 5.23
(models/bert/tokenization_bert.py), whose ids it must give.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordPiece

from latentrt.errors import CheckpointError
from latentrt.prompt.tokenizer import Tokenizer, token_id
from latentrt_export.checkpoint.vocabulary import (
    Json,
    Vocabulary,
    all_tokens,
    check_known,
    read_object,
    specials_of,
)

# The positions of LDM-BERT. BERT itself has 512, which is what published folders say.
LENGTH = 77
# In transformers' order, in which tokens that the vocabulary lacks get their ids. Values: BertTokenizer's defaults.
NAMED = {
    **{"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]"},
    **{"cls_token": "[CLS]", "mask_token": "[MASK]"},
}


def word_piece_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of a folder that has `tokenizer.json` or `vocab.txt`; rows have LENGTH tokens.

    Use `BERT.read`, which reports damaged files.
    """
    config = read_object(folder / "tokenizer_config.json", optional=True)
    BERT.check(folder, config)
    vocab, stored = vocabulary_in(folder)
    named, specials, added = specials_of(folder, config, stored, NAMED)
    names = {name: token.content for name, token in zip(NAMED, named, strict=True)}
    ends = {name: names[name] for name in ("cls_token", "sep_token", "pad_token")}
    check_known(folder, {"unk_token": names["unk_token"]}, vocab)
    check_known(folder, ends, vocab, added)
    backend = backend_of(vocab, all_tokens(specials, added), config, names["unk_token"])
    return Tokenizer(backend, LENGTH, *(token_id(backend, token) for token in ends.values()))


def vocabulary_in(folder: Path) -> tuple[dict[str, int], list[Json]]:
    """Return tokens and added tokens from `tokenizer.json`, else from `vocab.txt`, whose lines are the tokens."""
    lines, whole = folder / "vocab.txt", folder / "tokenizer.json"
    if whole.is_file():
        stored = read_object(whole)
        model = stored["model"]
        if "merges" in model or model.get("continuing_subword_prefix", "##") != "##":
            raise CheckpointError(f"{whole}: not BERT's, expected a WordPiece model whose parts begin with '##'")
        return model["vocab"], stored.get("added_tokens", [])
    if lines.is_file():
        return WordPiece.read_file(str(lines)), []
    raise BERT.missing(folder)


def backend_of(
    vocab: Mapping[str, int], tokens: Sequence[AddedToken], config: Json, unknown: str
) -> tokenizers.Tokenizer:
    """Return BERT's tokenizer. tokens: cut out of a text before it is split. unknown: stands for a word without parts.

    config: `do_lower_case`, `strip_accents` and `tokenize_chinese_chars`.
    """
    backend = tokenizers.Tokenizer(WordPiece(dict(vocab), unk_token=unknown))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.add_tokens(list(tokens))  # after the normalizer: tokens marked `normalized` go through it once, here
    return backend


def no_vocabulary() -> Tokenizer:
    """Raise CheckpointError: no package has BERT's vocabulary."""
    raise CheckpointError(
        "a checkpoint in a single file has no vocabulary: got no tokenizer, expected that of bert-base-uncased; pass a "
        "folder with its vocab.txt by --tokenizer DIR, for example from: "
        "hf download google-bert/bert-base-uncased vocab.txt --local-dir DIR"
    )


BERT = Vocabulary(
    ("BertTokenizer", "BertTokenizerFast"), "tokenizer.json or vocab.txt", word_piece_tokenizer, no_vocabulary
)
